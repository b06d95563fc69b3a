"""Handling of SIGINT, SIGTERM and SIGHUP."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager


class Interrupts:
    """SIGINTs (Ctrl-C), one after the other."""

    def __init__(self) -> None:
        self._waiting = asyncio.Semaphore(0)

    def add(self) -> None:
        """Adds a SIGINT."""
        self._waiting.release()

    async def next(self) -> None:
        """Waits for the next SIGINT."""
        await self._waiting.acquire()

    async def next_before(self, seconds: float) -> bool:
        """Waits for the next SIGINT, at most `seconds`, and tells whether there was one."""
        try:
            async with asyncio.timeout(seconds):
                await self.next()
        except TimeoutError:
            return False
        return True


@contextmanager
def counting_interrupts() -> Iterator[Interrupts]:
    """Collects SIGINTs instead of raising KeyboardInterrupt."""
    interrupts, loop = Interrupts(), asyncio.get_running_loop()
    before = signal.getsignal(signal.SIGINT)
    loop.add_signal_handler(signal.SIGINT, interrupts.add)
    try:
        yield interrupts
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, before)


@contextmanager
def cancelled_by_termination() -> Iterator[None]:
    """Cancels the current task on SIGTERM and SIGHUP, so that the terminal is restored."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    signals = (signal.SIGTERM, signal.SIGHUP)
    if task is not None:
        for each in signals:
            loop.add_signal_handler(each, task.cancel)
    try:
        yield
    finally:
        for each in signals:
            loop.remove_signal_handler(each)
