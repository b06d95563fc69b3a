"""A timeout that is restarted often: for each piece of a text, for each page of a stream."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class IdleTimeout:
    """A timeout that is cheap to restart. Construct it with `idle_timeout`. For the event loop's thread.

    Restarting costs an assignment, where a new timer costs as much as sending a few bytes: when the one timer fires, it
    checks how much time is left and reschedules itself.
    """

    def __init__(self, on_expiry: Callable[[], None]) -> None:
        self.expired = False
        """Whether the timeout has expired."""
        self._on_expiry = on_expiry
        self._loop = asyncio.get_running_loop()
        self._due: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def arm(self, seconds: float) -> None:
        """Expires in `seconds`, not earlier; must not be shorter than the timeouts set before."""
        self._due = self._loop.time() + seconds
        if self._timer is None:
            self._timer = self._loop.call_at(self._due, self._check)

    def disarm(self) -> None:
        """Does not expire until armed again."""
        self._due = None

    def close(self) -> None:
        """Never expires again."""
        if self._timer:
            self._timer.cancel()

    def _check(self) -> None:
        self._timer = None
        if self._due is None:
            return
        if self._due > self._loop.time():
            self._timer = self._loop.call_at(self._due, self._check)
        else:
            self.expired = True
            self._on_expiry()


@asynccontextmanager
async def idle_timeout() -> AsyncIterator[IdleTimeout]:
    """Yields a timeout that is not armed yet. When it expires, the block is cancelled and raises TimeoutError."""
    async with asyncio.timeout(None) as limit:
        timeout = IdleTimeout(lambda: limit.reschedule(0.0))
        try:
            yield timeout
        finally:
            timeout.close()
