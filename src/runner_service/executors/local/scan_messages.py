"""Reads what the scanner writes, and believes little of it: a command beside it can write to the same pipe."""

import asyncio
import hashlib
import json
from collections.abc import Mapping
from typing import NamedTuple

from runner_service.executors.local.scanner.files import MAX_CONTENT_BYTES
from runner_service.executors.local.scanner.main import MAX_CHANGES
from runner_service.executors.protocol import SandboxError, Stream
from runner_service.executors.tracking import EXECUTABLE, FILE, REPOSITORY, SYMLINK, FileState, FoundChange, Handle

_KINDS = (FILE, EXECUTABLE, SYMLINK, REPOSITORY)
_MAX_STDERR_BYTES = 2000
_MAX_LINE_BYTES = 64 * 1024
_MAX_IDENTITY_CHARACTERS = 200
_HASHED_ON_THE_LOOP_BYTES = 64 * 1024


class _Announced(NamedTuple):
    """A change whose contents follow; their sizes are in bytes, None for no content."""

    path: str
    states: tuple[FileState | None, FileState | None]
    sizes: tuple[int | None, int | None]
    changed_at: float


class ScanMessages:
    """A sink that passes on the changes which the scanner names. What is not as the scanner writes it is an error."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._buffer = bytearray()
        self._announced: _Announced | None = None
        self._count = 0
        self._stderr = b""
        self.is_done = False
        self.failure = ""

    @property
    def stderr(self) -> str:
        """The end of what it wrote to standard error."""
        return self._stderr.decode("utf-8", "replace").strip()[-300:]

    async def write(self, stream: Stream, data: bytes) -> None:
        """Implements `OutputSink`. Raises SandboxError."""
        if stream == "stderr":
            self._stderr = (self._stderr + data)[-_MAX_STDERR_BYTES:]
            return
        self._buffer += data
        try:
            while await self._handle_next():
                pass
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise SandboxError("the scanner sent something unreadable") from error

    async def _handle_next(self) -> bool:
        """Handles the next line, or what it announced; False when it has not come yet."""
        if self._announced is None:
            return self._read_line()
        path, states, sizes, changed_at = self._announced
        if len(self._buffer) < sum(size or 0 for size in sizes):
            return False
        self._announced = None
        contents: dict[str, bytes] = {}
        for state, size in zip(states, sizes, strict=True):
            if size is None:
                continue
            data = bytes(self._buffer[:size])
            del self._buffer[:size]
            if state is None or state.sha256 != await _sha256(data):
                raise ValueError("another content than announced")
            contents[state.sha256] = data
        if ".git" not in path.split("/"):  # which the scanner leaves out
            await self._handle(FoundChange(path, *states, contents, changed_at))
        return True

    def _read_line(self) -> bool:
        end = self._buffer.find(b"\n", 0, _MAX_LINE_BYTES)
        if end < 0:
            if len(self._buffer) > _MAX_LINE_BYTES:
                raise ValueError("a long line")
            return False
        message = json.loads(bytes(self._buffer[:end]))
        del self._buffer[: end + 1]
        if not isinstance(message, dict):
            raise TypeError(message)
        if "path" in message:
            self._announced = _announced(message)
            self._count += 1
            if self._count > MAX_CHANGES:
                raise ValueError("too many changes")
        elif "failed" in message:
            self.failure = str(message["failed"])
        else:
            self.is_done = True
        return True


def _announced(message: Mapping[str, object]) -> _Announced:
    path, sizes = message["path"], message["sizes"]
    if not isinstance(path, str) or not isinstance(sizes, list):
        raise TypeError(path)
    if "\0" in path or any(name in {"", ".", ".."} for name in path.split("/")):
        raise ValueError("a path that leads elsewhere")
    before, after = (_size(size) for size in sizes)
    states = (_state(message["before"], before), _state(message["after"], after))
    return _Announced(path, states, (before, after), float(str(message["changed_at"])))


def _size(size: object) -> int | None:
    if not isinstance(size, int) or not -1 <= size <= MAX_CONTENT_BYTES:
        raise ValueError("a size that no content has")
    return size if size >= 0 else None


def _state(described: object, size: int | None) -> FileState | None:
    if described is None:
        return None
    if not isinstance(described, dict):
        raise TypeError(described)
    state = FileState(described["kind"], described["size"], described["sha256"], described["identity"])
    texts = (state.sha256, state.identity)
    if state.kind not in _KINDS or not isinstance(state.size, int) or not all(isinstance(each, str) for each in texts):
        raise TypeError(described)
    if len(state.identity) > _MAX_IDENTITY_CHARACTERS or bool(state.sha256) is (size is None):
        raise ValueError("a state that no file has")
    return state


async def _sha256(data: bytes) -> str:
    if len(data) <= _HASHED_ON_THE_LOOP_BYTES:
        return hashlib.sha256(data).hexdigest()
    return await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
