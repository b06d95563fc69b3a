"""What the signals of a terminal do to a command."""

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


@contextmanager
def termination_cancels() -> Iterator[None]:
    """Turns SIGTERM and SIGHUP into the cancel of the current task, so that the terminal is left in order."""
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
