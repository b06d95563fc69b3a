"""The output of one command on its way to its sink."""

import asyncio
from collections import deque
from typing import Any

from runner_service.executors.protocol import OutputSink, SandboxError, Stream

_STREAMS: tuple[Stream, Stream] = ("stdout", "stderr")


class CommandOutput:
    """What has been delivered to the sink of a command, by offsets, and what was received and is not delivered yet.

    What is received may overlap with what was received before, since requests are repeated.
    """

    def __init__(self, name: str, sink: OutputSink) -> None:
        self.name = name
        self.offsets: dict[Stream, int] = dict.fromkeys(_STREAMS, 0)
        self.result: dict[str, Any] | None = None
        self.is_unknown = False
        self.is_waiting = False
        self._sink = sink
        self._received: deque[dict[str, Any]] = deque()
        self._changed = asyncio.Event()
        self._error: SandboxError | None = None

    def receive(self, part: dict[str, Any]) -> None:
        """Queues a part of a response: chunks by stream, the offsets where they begin, and the result."""
        self._received.append(part)
        self._wake()

    def fail(self, error: SandboxError) -> None:
        """Makes the current wait raise `error`."""
        self._error = error
        self._wake()

    async def deliver(self) -> None:
        """Writes what was received to the sink."""
        while self._received:
            part = self._received.popleft()
            if "unknown" in part:
                self.is_unknown = True
                return
            for stream in _STREAMS:
                await self._deliver(stream, part[stream], part[f"{stream}_at"])
            self.result = part["result"] or self.result

    async def wait(self) -> None:
        """Waits until something is received. Raises SandboxError when there will be nothing."""
        if not self._received:
            self.is_waiting = True
            self._changed.clear()
            try:
                await self._changed.wait()
            finally:
                self.is_waiting = False
        if self._error:
            raise self._error

    def _wake(self) -> None:
        self.is_waiting = False
        self._changed.set()

    async def _deliver(self, stream: Stream, chunks: list[bytes], at: int) -> None:
        skip = self.offsets[stream] - at
        if skip < 0:
            return  # requested before something in between was received; it will come again
        for chunk in chunks:
            rest, skip = chunk[skip:], max(0, skip - len(chunk))
            if rest:
                await self._sink.write(stream, rest)
                self.offsets[stream] += len(rest)
                await asyncio.sleep(0)
