"""A pipe that a command writes to: read in big pieces as they come, and only as fast as the sink takes them."""

import asyncio
import fcntl
import os
import sys
from contextlib import suppress

from runner_service.executors import OutputSink, Stream

_FIRST_READ = 64 * 1024
_LARGEST_READ = 256 * 1024
_LARGE_PIPE = 1024 * 1024


class OutputPipe:
    """One stream of a command. `writer` is for the command; `close_writer` once it has it; `pump` does the rest."""

    def __init__(self, stream: Stream, sink: OutputSink) -> None:
        self._stream = stream
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._size = _FIRST_READ
        self._readable: asyncio.Future[None] | None = None
        self._empty = asyncio.Event()
        self._is_last_look = False

    async def pump(self) -> None:
        """Hands everything to the sink, until no process holds the pipe any more. Closes the reading end."""
        try:
            while True:
                await self._more()
                if not await self._forward():
                    return
        finally:
            self.close_reader()
            self._empty.set()

    def close_writer(self) -> None:
        """Leaves the writing end to the command alone."""
        os.close(self.writer)

    def close_reader(self) -> None:
        """Gives up the stream."""
        os.close(self._reader)

    async def drained(self) -> None:
        """Returns once everything that was written before this call has been taken by the sink."""
        self._is_last_look = True
        self._wake()
        await self._empty.wait()

    async def _forward(self) -> bool:
        """Hands what is there to the sink; False at the end of the pipe."""
        with suppress(BlockingIOError):
            while data := os.read(self._reader, self._size):
                if len(data) == self._size:
                    self._grow()
                await self._sink.write(self._stream, data)
                # A sink that never waits must not keep the loop from everybody else.
                await asyncio.sleep(0)
            return False
        if self._is_last_look:
            self._empty.set()
        return True

    async def _more(self) -> None:
        """Waits until there is something to read, or somebody wants to know whether there is."""
        if self._is_last_look and not self._empty.is_set():
            return
        self._readable = self._loop.create_future()
        # Only while waiting: the loop would spin as long as the sink makes us wait.
        self._loop.add_reader(self._reader, self._wake)
        try:
            await self._readable
        finally:
            self._loop.remove_reader(self._reader)
            self._readable = None

    def _wake(self) -> None:
        if self._readable and not self._readable.done():
            self._readable.set_result(None)

    def _grow(self) -> None:
        """Makes room for a command that writes much; the system may not have it."""
        if self._size < _LARGEST_READ:
            self._size = _LARGEST_READ
            if sys.platform == "linux":
                with suppress(OSError):
                    fcntl.fcntl(self._reader, fcntl.F_SETPIPE_SZ, _LARGE_PIPE)
