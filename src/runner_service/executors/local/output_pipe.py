"""A pipe that a command writes to: read in big pieces as they come, and only as fast as the sink takes them."""

import array
import asyncio
import fcntl
import os
import sys
import termios
from collections.abc import Callable
from contextlib import suppress

from runner_service.executors.protocol import OutputSink, Stream

_FIRST_READ = 64 * 1024
_LARGEST_READ = 256 * 1024
_LARGE_PIPE = 1024 * 1024


class OutputPipe:
    """One stream of a command.

    `writer` is for the command; once it has it, `close_writer`, and `watch` does the rest until `close`. While nothing
    comes there is no task; what comes is delivered by one that lasts until the pipe is empty, so that everything that
    gathers while the sink takes its time is the next piece.
    """

    def __init__(self, stream: Stream, sink: OutputSink) -> None:
        self._stream = stream
        self._sink = sink
        self._loop = asyncio.get_running_loop()
        self._reader, self.writer = os.pipe()
        os.set_blocking(self._reader, False)
        self._size = _FIRST_READ
        self._read = self._taken = 0
        self._goal: tuple[int, asyncio.Future[None]] | None = None
        self._delivery: asyncio.Task[None] | None = None
        self._failed: Callable[[BaseException], None] = lambda _: None
        self.is_open = True

    def close_writer(self) -> None:
        """Leaves the writing end to the command alone."""
        os.close(self.writer)

    def watch(self, failed: Callable[[BaseException], None]) -> None:
        """Begins to read. When the sink fails, its error is given to `failed` and the pipe is closed."""
        self._failed = failed
        self._loop.add_reader(self._reader, self._deliver_next)

    async def drained(self) -> None:
        """Returns once the sink has taken everything that was written before this call, whoever goes on writing."""
        self._deliver_next()
        goal = self._read + self._waiting()
        if self.is_open and self._taken < goal:
            reached = self._loop.create_future()
            self._goal = (goal, reached)
            await reached

    async def close(self) -> None:
        """Gives up the stream, with what is still in it."""
        if self._delivery:
            self._delivery.cancel()
            await asyncio.wait([self._delivery])
        self.abandon()

    def abandon(self) -> None:
        """Closes the reading end; a writer gets SIGPIPE."""
        if self.is_open:
            self.is_open = False
            self._loop.remove_reader(self._reader)
            os.close(self._reader)
            self._check_goal()

    def _waiting(self) -> int:
        """Returns how many bytes are in the pipe."""
        count = array.array("i", [0])
        if self.is_open:
            fcntl.ioctl(self._reader, termios.FIONREAD, count)
        return count[0]

    def _deliver_next(self) -> None:
        """Has delivered what is in the pipe now."""
        if self._delivery or not self.is_open:
            return
        data = self._next()
        if data:
            # The loop would spin as long as the sink makes us wait.
            self._loop.remove_reader(self._reader)
            self._delivery = self._loop.create_task(self._deliver(data))
            self._delivery.add_done_callback(self._delivered)
        elif data is not None:
            self.abandon()

    async def _deliver(self, data: bytes | None) -> None:
        while data:
            await self._sink.write(self._stream, data)
            self._taken += len(data)
            self._check_goal()
            # A sink that never waits must not keep the loop from everybody else.
            await asyncio.sleep(0)
            data = self._next()
        if data is None:
            self._loop.add_reader(self._reader, self._deliver_next)
        else:
            self.abandon()

    def _delivered(self, delivery: asyncio.Task[None]) -> None:
        self._delivery = None
        if delivery.cancelled():
            return
        if error := delivery.exception():
            self.abandon()
            self._failed(error)

    def _next(self) -> bytes | None:
        """Reads what is there: nothing at the end of the stream, None when there is more to come."""
        try:
            data = os.read(self._reader, self._size)
        except BlockingIOError:
            return None
        if len(data) == self._size:
            self._grow()
        self._read += len(data)
        return data

    def _grow(self) -> None:
        """Makes room for a command that writes much; the system may not have it."""
        if self._size < _LARGEST_READ:
            self._size = _LARGEST_READ
            if sys.platform == "linux":
                with suppress(OSError):
                    fcntl.fcntl(self._reader, fcntl.F_SETPIPE_SZ, _LARGE_PIPE)

    def _check_goal(self) -> None:
        if self._goal and not self._goal[1].done() and (self._taken >= self._goal[0] or not self.is_open):
            self._goal[1].set_result(None)
