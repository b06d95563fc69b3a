"""Waiting for something to happen, but not for ever."""

import asyncio


class News:
    """Wakes all who wait, each time.

    A stream waits before every page: this costs half of what `asyncio.timeout` around an `asyncio.Event` does.
    """

    def __init__(self) -> None:
        self._waiting: set[asyncio.Future[bool]] = set()

    async def wait(self, patience: float) -> bool:
        """Waits for the next time; False when that did not come within `patience` seconds."""
        loop = asyncio.get_running_loop()
        woken: asyncio.Future[bool] = loop.create_future()
        timer = loop.call_later(patience, _settle, woken, False)
        self._waiting.add(woken)
        try:
            return await woken
        finally:
            timer.cancel()
            self._waiting.discard(woken)

    def spread(self) -> None:
        """Wakes all who wait now."""
        for woken in self._waiting:
            _settle(woken, True)


def _settle(woken: asyncio.Future[bool], came: bool) -> None:
    if not woken.done():
        woken.set_result(came)
