"""A pipe that a command reads from: fed as fast as the command takes it, and closed with what feeds it."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager


class InputPipe:
    """The standard input of a command.

    `reader` is for the command; once it has it, `close_reader`. `feeding` does the rest.
    """

    def __init__(self, items: AsyncIterator[bytes]) -> None:
        self._items = items
        self._loop = asyncio.get_running_loop()
        self.reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._is_open = True

    def close_reader(self) -> None:
        """Leaves the reading end to the command alone."""
        os.close(self.reader)

    def abandon(self) -> None:
        """Closes the writing end: for a reader that is the end."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_writer(self._writer)
            os.close(self._writer)

    @asynccontextmanager
    async def feeding(self, failed: Callable[[BaseException], None]) -> AsyncIterator[None]:
        """Feeds the command until the context ends. An error of what gives the items goes to `failed`."""
        task = self._loop.create_task(self._feed())
        task.add_done_callback(lambda task: _tell(task, failed))
        try:
            yield
        finally:
            task.cancel()
            try:
                await asyncio.wait([task])
            finally:
                self.abandon()

    async def _feed(self) -> None:
        try:
            async for item in self._items:
                if not await self._written(memoryview(item)):
                    break
        finally:
            self.abandon()
            if isinstance(self._items, AsyncGenerator):
                await self._items.aclose()

    async def _written(self, rest: memoryview) -> bool:
        """Writes all; False when nobody reads any more."""
        while rest:
            try:
                rest = rest[os.write(self._writer, rest) :]
            except BlockingIOError:
                await self._writable()
            except BrokenPipeError:
                return False
            else:
                # A command that reads as fast as we write must not keep the loop from everybody else.
                await asyncio.sleep(0)
        return True

    async def _writable(self) -> None:
        ready = asyncio.Event()
        self._loop.add_writer(self._writer, ready.set)
        try:
            await ready.wait()
        finally:
            if self._is_open:
                self._loop.remove_writer(self._writer)


def _tell(task: asyncio.Task[None], failed: Callable[[BaseException], None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        failed(error)
