"""SIGTERM and SIGINT: the first one asks, the second one insists."""

import asyncio
import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequests:
    """How often somebody has wanted the service to stop."""

    def __init__(self) -> None:
        self._asked = asyncio.Event()
        self._insisted = asyncio.Event()

    def request(self) -> None:
        """Asks to stop, or insists when that was already asked."""
        (self._insisted if self._asked.is_set() else self._asked).set()

    async def asked(self) -> None:
        """Waits for the first request."""
        await self._asked.wait()

    async def insisted(self) -> None:
        """Waits for the second request."""
        await self._insisted.wait()


@contextmanager
def stop_signals() -> Iterator[StopRequests]:
    """Counts each SIGTERM and SIGINT as a request, in place of what they would otherwise do. For the main thread."""
    loop, requests = asyncio.get_running_loop(), StopRequests()

    def received(name: str) -> None:
        logger.info("signal_received name=%s", name)
        requests.request()

    for number in _SIGNALS:
        loop.add_signal_handler(number, received, number.name)
    try:
        yield requests
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
