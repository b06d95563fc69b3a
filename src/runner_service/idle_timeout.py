"""A time-out that is put off again and again: for every piece of a text, for every page of a stream."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class Alarm:
    """Rings once a time has come. Construct it with `alarm`. Belongs to the event loop.

    To put it off costs an assignment, where a timer costs as much as sending a few bytes: the one timer behind it
    looks, when it fires, how much time is left.
    """

    def __init__(self, ring: Callable[[], None]) -> None:
        self.rang = False
        """Whether it has rung."""
        self._ring = ring
        self._loop = asyncio.get_running_loop()
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def set(self, seconds: float) -> None:
        """Rings in so many seconds, never fewer than the last time, and not when it would have before."""
        self._due = self._loop.time() + seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._due, self._look)

    def clear(self) -> None:
        """Does not ring until it is set again."""
        self._due = None

    def close(self) -> None:
        """Never rings again."""
        if self._timer:
            self._timer.cancel()

    def _look(self) -> None:
        self._timer = None
        if self._due is None:
            return
        if self._due > self._loop.time():
            self._timer = self._loop.call_at(self._due, self._look)
        else:
            self.rang = True
            self._ring()


@asynccontextmanager
async def alarm() -> AsyncIterator[Alarm]:
    """Gives an alarm that is not set yet. When it rings, the block ends with TimeoutError."""
    async with asyncio.timeout(None) as limit:
        given = Alarm(lambda: limit.reschedule(0.0))
        try:
            yield given
        finally:
            given.close()
