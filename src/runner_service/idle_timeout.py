"""A timeout that is restarted often: for each piece of a text, for each page of a stream."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

_MAX_LATE_SECONDS = 1.0
"""A timer that fires later than that shows that the process was stopped, or its machine asleep."""

_MAX_GRACE_SECONDS = 1.0
"""How long what has come is waited for once the time is up: a shorter stop, just before, shows nowhere."""


class IdleTimeout:
    """A timeout that is cheap to restart. Construct it with `idle_timeout`. For the event loop's thread.

    If the process was stopped meanwhile, it begins anew: what has come has not been read yet.

    Restarting costs an assignment, where a new timer costs as much as sending a few bytes: when the one timer fires, it
    checks how much time is left and reschedules itself.
    """

    def __init__(self, on_expiry: Callable[[], None]) -> None:
        self.expired = False
        """Whether the timeout has expired."""
        self._on_expiry = on_expiry
        self._loop = asyncio.get_running_loop()
        self.seconds = 0.0
        """What it was last armed with."""
        self._due: float | None = None
        self._is_up = False
        self._fires_at = math.inf
        self._timer: asyncio.TimerHandle | None = None

    def arm(self, seconds: float) -> None:
        """Expires in `seconds`, not earlier, and up to a second later."""
        self.seconds = seconds
        self._is_up = False
        self._due = due = self._loop.time() + seconds
        if due < self._fires_at:  # there is no timer, or only one for a longer timeout
            self.close()
            self._schedule(due)

    def disarm(self) -> None:
        """Does not expire until armed again."""
        self._due = None

    def expire(self) -> None:
        """Expires now."""
        self.expired = True
        self._on_expiry()

    def close(self) -> None:
        """Never expires again."""
        if self._timer:
            self._timer.cancel()

    def _schedule(self, due: float) -> None:
        self._fires_at = due
        self._timer = self._loop.call_at(due, self._check)

    def _check(self) -> None:
        now, due = self._loop.time(), self._fires_at
        self._timer, self._fires_at = None, math.inf
        if self._due is None:
            return
        if now > due + _MAX_LATE_SECONDS:
            self._due = now + self.seconds
        elif self._due <= now and not self._is_up:
            self._is_up = True
            self._due = now + min(self.seconds, _MAX_GRACE_SECONDS)
        if self._due > now:
            self._schedule(self._due)
        else:
            self.expire()


@asynccontextmanager
async def idle_timeout() -> AsyncIterator[IdleTimeout]:
    """Yields a timeout that is not armed yet. When it expires, the block is cancelled and raises TimeoutError."""
    async with asyncio.timeout(None) as limit:
        timeout = IdleTimeout(lambda: limit.reschedule(0.0))
        try:
            yield timeout
        finally:
            timeout.close()
