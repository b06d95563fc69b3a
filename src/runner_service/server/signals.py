"""SIGTERM and SIGINT: the first drains, the second stops at once."""

import asyncio
import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager

logger = logging.getLogger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequests:
    """Counts the requests to stop the service."""

    def __init__(self) -> None:
        self._first = asyncio.Event()
        self._second = asyncio.Event()
        self._first_at = time.monotonic()

    def request(self) -> None:
        """Adds a request."""
        if self._first.is_set():
            self._second.set()
        else:
            self._first_at = time.monotonic()
            self._first.set()

    def seconds_since_first(self) -> float:
        """Returns how long ago the first request came."""
        return time.monotonic() - self._first_at

    async def first(self) -> None:
        """Waits for the first request."""
        await self._first.wait()

    async def second(self) -> None:
        """Waits for the second request."""
        await self._second.wait()


@contextmanager
def stop_signals() -> Iterator[StopRequests]:
    """Turns each SIGTERM and SIGINT into a stop request. For the main thread."""
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
