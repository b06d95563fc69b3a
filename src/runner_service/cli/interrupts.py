"""Ctrl-C: once cancels, twice leaves running."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Presses:
    """The times that Ctrl-C was pressed, one after the other."""

    def __init__(self) -> None:
        self._waiting = asyncio.Semaphore(0)

    def add(self) -> None:
        """Counts a press."""
        self._waiting.release()

    async def next(self) -> None:
        """Waits for the next press."""
        await self._waiting.acquire()

    async def next_within(self, seconds: float) -> bool:
        """Waits for the next press, but no longer than `seconds`, and tells whether there was one."""
        try:
            async with asyncio.timeout(seconds):
                await self.next()
        except TimeoutError:
            return False
        return True


@contextmanager
def presses_of_ctrl_c() -> Iterator[Presses]:
    """Counts what otherwise would end the program."""
    presses, loop = Presses(), asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGINT)
    loop.add_signal_handler(signal.SIGINT, presses.add)
    try:
        yield presses
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)
