"""Broadcast notification with a timeout."""

import asyncio
import math


class Notifier:
    """Wakes all waiters on each notification.

    A stream waits before every page: this costs a fraction of `asyncio.timeout` around an `asyncio.Event`. One timer
    serves all waiters and stays set when they are woken, since they usually wait again.
    """

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[bool], float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._fires_at = math.inf
        """When the timer does: uvloop's does not tell if that is at once."""

    async def wait(self, timeout_seconds: float) -> bool:
        """Waits for the next notification; returns False after `timeout` seconds without one."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[bool] = loop.create_future()
        self._waiting[waiter] = due = loop.time() + timeout_seconds
        if due < self._fires_at:
            self._set_timer(due, loop)
        try:
            return await waiter
        finally:
            self._waiting.pop(waiter, None)

    def notify_all(self) -> None:
        """Wakes all current waiters."""
        for waiter in self._waiting:
            _resolve(waiter, notified=True)

    def _set_timer(self, due: float, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer:
            self._timer.cancel()
        self._fires_at = due
        self._timer = loop.call_at(due, self._expire_waiters, loop)

    def _expire_waiters(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer, self._fires_at = None, math.inf
        now = loop.time()
        for waiter, due in self._waiting.items():
            if due <= now:
                _resolve(waiter, notified=False)
        if remaining := [due for due in self._waiting.values() if due > now]:
            self._set_timer(min(remaining), loop)


def _resolve(waiter: asyncio.Future[bool], *, notified: bool) -> None:
    if not waiter.done():
        waiter.set_result(notified)
