"""Waiting for something to happen, but not for ever."""

import asyncio


class News:
    """Wakes all who wait, each time.

    A stream waits before every page: this costs a fraction of what `asyncio.timeout` around an `asyncio.Event` does.
    One timer serves all, and stays when they are woken, since they will wait again: it looks who has lost patience.
    """

    def __init__(self) -> None:
        self._waiting: dict[asyncio.Future[bool], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, patience: float) -> bool:
        """Waits for the next time; False when that did not come within `patience` seconds."""
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[bool] = loop.create_future()
        self._waiting[woken] = due = loop.time() + patience
        if self._timer is None or due < self._timer.when():
            self._look_at(due, loop)
        try:
            return await woken
        finally:
            self._waiting.pop(woken, None)

    def spread(self) -> None:
        """Wakes all who wait now."""
        for woken in self._waiting:
            _settle(woken, True)

    def _look_at(self, due: float, loop: asyncio.AbstractEventLoop) -> None:
        if self._timer:
            self._timer.cancel()
        self._timer = loop.call_at(due, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for woken, due in self._waiting.items():
            if due <= now:
                _settle(woken, False)
        if left := [due for due in self._waiting.values() if due > now]:
            self._look_at(min(left), loop)


def _settle(woken: asyncio.Future[bool], came: bool) -> None:
    if not woken.done():
        woken.set_result(came)
