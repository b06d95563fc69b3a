"""Tracks the files of a local sandbox by the scanner, which runs as its commands do."""

import json
import os
import sys
from collections.abc import Mapping

from runner_service.executors.local.commands import Commands
from runner_service.executors.local.environment import command_environment
from runner_service.executors.local.scanner.files import MAX_CONTENT_BYTES
from runner_service.executors.local.supervisor_process import PACKAGES
from runner_service.executors.local.write_recorder import WriteRecorder
from runner_service.executors.protocol import SandboxError, Stream
from runner_service.executors.tracking import FileState, FoundChange, Handle, TrackingError

_SCAN_TIMEOUT_SECONDS = 60.0
_END_TIMEOUT_SECONDS = 5.0
_MAX_STDERR_BYTES = 2000
_MAX_LINE_BYTES = 64 * 1024
_INTERPRETER = os.path.realpath(sys.executable)
_SOURCE = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from runner_service.executors.local.scanner.main import main as run
run(sys.argv[1:])
"""


class LocalTracking:
    """Implements `Tracking`. `directory` is the scanner's, as seen by commands; `uses_git` if it is on the PATH."""

    def __init__(
        self, commands: Commands, recorder: WriteRecorder, *, root: str, directory: str, uses_git: bool = True
    ) -> None:
        self._commands = commands
        self._recorder = recorder
        self._root = root
        self._directory = directory
        self._uses_git = uses_git

    @property
    def place(self) -> str:
        """The sandbox's root."""
        return self._root

    @property
    def is_quiet(self) -> bool:
        """Whether no command of the sandbox runs, and nothing that one has left behind."""
        return self._commands.is_quiet

    async def begin(self) -> None:
        """Implements `Tracking`."""
        await self._run("remember", _ignore, _SCAN_TIMEOUT_SECONDS)

    async def written(self, handle: Handle) -> None:
        """Implements `Tracking`."""
        for change in self._recorder.take():
            await handle(change)

    async def scan(self, handle: Handle) -> None:
        """Implements `Tracking`."""
        await self._run("scan", handle, _SCAN_TIMEOUT_SECONDS)

    async def end(self) -> None:
        """Implements `Tracking`."""
        await self._run("forget", _ignore, _END_TIMEOUT_SECONDS)

    async def _run(self, what: str, handle: Handle, timeout_seconds: float) -> None:
        request = {"do": what, "root": self._root, "directory": self._directory, "uses_git": self._uses_git}
        also = self._recorder.paths()
        messages = _Messages(handle)
        result = await self._commands.run_program(
            [
                _INTERPRETER,
                "-I",
                "-S",
                "-X",
                "utf8",
                "-c",
                _SOURCE,
                str(PACKAGES),
                json.dumps({**request, "also": also}),
            ],
            cwd=self._root,
            timeout=timeout_seconds,
            sink=messages,
            environment=_environment(self._root),
        )
        if result.timed_out:
            raise TrackingError(f"looking for changes took more than {timeout_seconds:g} s")
        if result.exceeded:
            raise TrackingError(f"looking for changes used {result.exceeded.text}")
        if not messages.is_done:
            raise TrackingError(messages.failure or result.start_error or f"the scanner ended: {messages.stderr}")


class _Messages:
    """Reads what the scanner writes."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._buffer = bytearray()
        self._message: dict[str, object] | None = None
        self._sizes: list[int] = []
        self._stderr = b""
        self.is_done = False
        self.failure = ""

    @property
    def stderr(self) -> str:
        return self._stderr.decode("utf-8", "replace").strip()[-300:]

    async def write(self, stream: Stream, data: bytes) -> None:
        if stream == "stderr":
            self._stderr = (self._stderr + data)[-_MAX_STDERR_BYTES:]
            return
        self._buffer += data
        while (found := self._next_change()) is not None:
            await self._handle(found)

    def _next_change(self) -> FoundChange | None:
        """Returns the next change, if it is whole. A command may have written into the scanner's output."""
        try:
            return self._next()
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            raise SandboxError("the scanner sent something unreadable") from error

    def _next(self) -> FoundChange | None:
        while True:
            if self._message is None and not self._read_line():
                return None
            if (message := self._message) is None:
                continue
            if len(self._buffer) < sum(self._sizes):
                return None
            self._message = None
            return self._change(message)

    def _read_line(self) -> bool:
        """Reads the next line, if there is a whole one."""
        end = self._buffer.find(b"\n", 0, _MAX_LINE_BYTES)
        if end < 0:
            if len(self._buffer) > _MAX_LINE_BYTES:
                raise SandboxError("the scanner sent something unreadable")
            return False
        message = json.loads(bytes(self._buffer[:end]))
        del self._buffer[: end + 1]
        if "path" in message:
            self._message, self._sizes = message, [max(0, int(size)) for size in message["sizes"]]
            if max(self._sizes) > MAX_CONTENT_BYTES:
                raise ValueError("a content is too large")
        elif "failed" in message:
            self.failure = str(message["failed"])
        else:
            self.is_done = True
        return True

    def _change(self, message: Mapping[str, object]) -> FoundChange:
        contents: dict[str, bytes] = {}
        states: list[FileState | None] = []
        for side, size in zip(("before", "after"), self._sizes, strict=True):
            data = bytes(self._buffer[:size])
            del self._buffer[:size]
            described = message[side]
            state = FileState(**described) if isinstance(described, dict) else None
            states.append(state)
            if state and state.has_content:
                contents[state.sha256] = data
        changed_at = float(str(message["changed_at"]))
        return FoundChange(str(message["path"]), states[0], states[1], contents, changed_at)


def _environment(root: str) -> dict[str, str]:
    """Returns the scanner's variables: none of the caller's."""
    environment = command_environment({}, root=root)
    # Programs are started by their bare names, and an interpreter finds its library by its name and PATH.
    return {**environment, "PATH": f"{os.path.dirname(_INTERPRETER)}:{environment['PATH']}"}  # noqa: PTH120  # a string


async def _ignore(change: FoundChange) -> None:
    """Nothing is passed on."""
    del change
