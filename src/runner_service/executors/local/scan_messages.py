"""Reads what the scanner writes, and believes little of it: a command beside it can write to the same pipe."""

from runner_service.executors.change_stream import ChangeReader
from runner_service.executors.protocol import Stream
from runner_service.executors.tracking import Handle

_MAX_STDERR_BYTES = 2000


class ScanMessages(ChangeReader):
    """A sink that passes on the changes which the scanner names. What is not as the scanner writes it is an error."""

    def __init__(self, handle: Handle) -> None:
        super().__init__(handle, requires_contents=True)
        self._stderr = b""

    @property
    def stderr(self) -> str:
        """The end of what it wrote to standard error."""
        return self._stderr.decode("utf-8", "replace").strip()[-300:]

    async def write(self, stream: Stream, data: bytes) -> None:
        """Implements `OutputSink`. Raises SandboxError."""
        if stream == "stderr":
            self._stderr = (self._stderr + data)[-_MAX_STDERR_BYTES:]
        else:
            await self.feed(data)
