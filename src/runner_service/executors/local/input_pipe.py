"""The standard input pipe of a command: fed as fast as the command reads."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager


class InputPipe:
    """The standard input of a command.

    `reader` is passed to the command, then closed here by `close_reader`. `feeding` writes to the other end.
    """

    def __init__(self, items: AsyncIterator[bytes]) -> None:
        self._items = items
        self._loop = asyncio.get_running_loop()
        self.reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._is_open = True

    def close_reader(self) -> None:
        """Closes our copy of the command's end."""
        os.close(self.reader)

    def close_writer(self) -> None:
        """Closes the writing end, so that the reader gets end of file."""
        if self._is_open:
            self._is_open = False
            self._loop.remove_writer(self._writer)
            os.close(self._writer)

    @asynccontextmanager
    async def feeding(self, failed: Callable[[BaseException], None]) -> AsyncIterator[None]:
        """Feeds the command until the context ends. `failed` is called with an error of the iterator."""
        task = self._loop.create_task(self._feed())
        task.add_done_callback(lambda task: _report_failure(task, failed))
        try:
            yield
        finally:
            task.cancel()
            try:
                await asyncio.wait([task])
            finally:
                self.close_writer()

    async def _feed(self) -> None:
        try:
            async for item in self._items:
                if not await self._written(memoryview(item)):
                    break
        finally:
            self.close_writer()
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


def _report_failure(task: asyncio.Task[None], failed: Callable[[BaseException], None]) -> None:
    if not task.cancelled() and (error := task.exception()):
        failed(error)
