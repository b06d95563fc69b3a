"""An output pipe of a command: read in large chunks, only as fast as the sink accepts them."""

import array
import asyncio
import fcntl
import os
import sys
import termios
from collections.abc import Callable
from contextlib import suppress

from runner_service.executors.protocol import OutputSink, Stream

_INITIAL_READ_BYTES = 64 * 1024
_MAX_READ_BYTES = 256 * 1024
_LARGE_PIPE_BYTES = 1024 * 1024


class OutputPipe:
    """One stream of a command.

    `writer` is passed to the command, then closed here by `close_writer`; `watch` reads until `close`. An idle pipe has
    no task; output is delivered by one that lasts until the pipe is empty, so that what arrives while the sink is busy
    becomes the next chunk.
    """

    def __init__(self, stream: Stream, sink: OutputSink) -> None:
        self._stream = stream
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._read_size = _INITIAL_READ_BYTES
        self._read_bytes = self._delivered_bytes = 0
        self._drain_target: tuple[int, asyncio.Future[None]] | None = None
        self._delivery: asyncio.Task[None] | None = None
        self._failed: Callable[[BaseException], None] = lambda _: None
        self.is_open = True

    def close_writer(self) -> None:
        """Closes our copy of the command's end."""
        os.close(self.writer)

    def watch(self, failed: Callable[[BaseException], None]) -> None:
        """Starts reading. When the sink fails, the pipe is closed and `failed` is called with the error."""
        self._failed = failed
        self._loop.add_reader(self._reader, self._deliver_next)

    async def drain(self) -> None:
        """Waits until the sink has accepted everything that was written before this call."""
        self._deliver_next()
        target = self._read_bytes + self._waiting()
        if self.is_open and self._delivered_bytes < target:
            drained = self._loop.create_future()
            self._drain_target = (target, drained)
            await drained

    async def close(self) -> None:
        """Stops reading and drops what is still in the pipe."""
        if self._delivery:
            self._delivery.cancel()
            await asyncio.wait([self._delivery])
        self.close_reader()

    def close_reader(self) -> None:
        """Closes the reading end; a writer gets SIGPIPE."""
        if self.is_open:
            self.is_open = False
            self._loop.remove_reader(self._reader)
            os.close(self._reader)
            self._check_drain_target()

    def _waiting(self) -> int:
        """Returns how many bytes are in the pipe."""
        count = array.array("i", [0])
        if self.is_open:
            fcntl.ioctl(self._reader, termios.FIONREAD, count)
        return count[0]

    def _deliver_next(self) -> None:
        """Starts a delivery of what is in the pipe."""
        if self._delivery or not self.is_open:
            return
        data = self._next()
        if data:
            # A level-triggered reader would spin the loop while the sink is busy.
            self._loop.remove_reader(self._reader)
            self._delivery = self._loop.create_task(self._deliver(data))
            self._delivery.add_done_callback(self._delivered)
        elif data is not None:
            self.close_reader()

    async def _deliver(self, data: bytes | None) -> None:
        while data:
            await self._sink.write(self._stream, data)
            self._delivered_bytes += len(data)
            self._check_drain_target()
            # A sink that never waits must not keep the loop from everybody else.
            await asyncio.sleep(0)
            data = self._next()
        if data is None:
            self._loop.add_reader(self._reader, self._deliver_next)
        else:
            self.close_reader()

    def _delivered(self, delivery: asyncio.Task[None]) -> None:
        self._delivery = None
        if delivery.cancelled():
            return
        if error := delivery.exception():
            self.close_reader()
            self._failed(error)

    def _next(self) -> bytes | None:
        """Reads what is there: nothing at the end of the stream, None when there is more to come."""
        try:
            data = os.read(self._reader, self._read_size)
        except BlockingIOError:
            return None
        if len(data) == self._read_size:
            self._grow()
        self._read_bytes += len(data)
        return data

    def _grow(self) -> None:
        """Enlarges the pipe of a command that writes much; the system may refuse."""
        if self._read_size < _MAX_READ_BYTES:
            self._read_size = _MAX_READ_BYTES
            if sys.platform == "linux":
                with suppress(OSError):
                    fcntl.fcntl(self._reader, fcntl.F_SETPIPE_SZ, _LARGE_PIPE_BYTES)

    def _check_drain_target(self) -> None:
        if (
            self._drain_target
            and not self._drain_target[1].done()
            and (self._delivered_bytes >= self._drain_target[0] or not self.is_open)
        ):
            self._drain_target[1].set_result(None)
