"""Changes of files as bytes: what the scanner writes, and what a cloud sandbox sends of it.

A change is a line of JSON, followed by the contents that it announces. The last line says how it ended. Whoever writes
may be controlled by the commands of an agent, so nothing is believed that can be checked.
"""

import asyncio
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from runner_service.executors.protocol import SandboxError
from runner_service.executors.tracking import (
    KINDS,
    MAX_CHANGES,
    MAX_CONTENT_BYTES,
    OTHER,
    FileState,
    FoundChange,
    Handle,
)

_MAX_LINE_BYTES = 64 * 1024
_HASHED_AT_ONCE_BYTES = 64 * 1024
_HASH = re.compile("([0-9a-f]{64})?")
_IDENTITY = re.compile("[ -~]{0,100}")
_NOT_SENT = -1


class _Announced(NamedTuple):
    """A change whose contents follow; their sizes are in bytes, None for no content."""

    path: str
    states: Sequence[FileState | None]
    sizes: Sequence[int | None]
    changed_at: float
    is_exact: bool

    @property
    def size(self) -> int:
        """How many bytes follow."""
        return sum(size or 0 for size in self.sizes)


class ChangeReader:
    """Passes on the changes that it reads, at most `max_changes`. With `requires_contents` each state has its content.

    What is not as it should be is an error. Files of git are left out, which no scanner names.
    """

    def __init__(self, handle: Handle, *, requires_contents: bool = False, max_changes: int = MAX_CHANGES) -> None:
        self._handle = handle
        self._requires_contents = requires_contents
        self._changes_left = max_changes
        self._buffer = bytearray()
        self._announced: _Announced | None = None
        self.is_done = False
        self.failure = ""
        """Why changes cannot be found, as the writer says."""

    async def feed(self, data: bytes) -> None:
        """Reads on. Raises SandboxError."""
        self._buffer += data
        while (change := await self._next()) is not None:
            if ".git" not in change.path.split("/"):
                await self._handle(change)

    async def _next(self) -> FoundChange | None:
        """Returns the next change, if it is there as a whole."""
        try:
            while self._announced is None:
                if not self._read_line():
                    return None
            if len(self._buffer) < self._announced.size:
                return None
            announced, self._announced = self._announced, None
            return await self._change(announced)
        except (ValueError, TypeError, LookupError, RecursionError) as error:
            raise SandboxError("the scanner sent something unreadable") from error

    def _read_line(self) -> bool:
        """Reads the next line, if there is a whole one."""
        end = self._buffer.find(b"\n", 0, _MAX_LINE_BYTES)
        if end < 0:
            if len(self._buffer) > _MAX_LINE_BYTES:
                raise ValueError("a long line")
            return False
        message = json.loads(bytes(self._buffer[:end]))
        del self._buffer[: end + 1]
        if "path" in message:
            self._announced = self._announcement(message)
            self._changes_left -= 1
            if self._changes_left < 0:
                raise ValueError("too many changes")
        elif "failed" in message:
            self.failure = str(message["failed"])
        else:
            self.is_done = bool(message["done"])
        return True

    def _announcement(self, message: Mapping[str, object]) -> _Announced:
        if not isinstance(announced := message["sizes"], list):
            raise TypeError(announced)
        before, after = announced
        sizes = [_size(before), _size(after)]
        states = [state_in(message["before"]), state_in(message["after"])]
        for state, size in zip(states, sizes, strict=True):
            has_content = bool(state and state.has_content)
            if size is not None and not has_content:
                raise ValueError("a content for nothing")
            if size is None and has_content and self._requires_contents:
                raise ValueError("a state without its content")
        changed_at = float(str(message["changed_at"]))
        return _Announced(_path(message["path"]), states, sizes, changed_at, message.get("is_exact") is True)

    async def _change(self, announced: _Announced) -> FoundChange:
        contents: dict[str, bytes] = {}
        for state, size in zip(announced.states, announced.sizes, strict=True):
            if state is None or size is None:
                continue
            data = bytes(self._buffer[:size])
            del self._buffer[:size]
            if state.sha256 != await _sha256(data):
                raise ValueError("another content than announced")
            contents[state.sha256] = data
        path, (before, after), _, changed_at, is_exact = announced
        return FoundChange(path, before, after, contents, changed_at, is_exact)


def encode_change(change: FoundChange, *, with_contents: bool = True) -> Iterator[bytes]:
    """Yields a change as bytes."""
    sides = (change.before, change.after)
    contents = [change.contents.get(state.sha256) if state and with_contents else None for state in sides]
    message = {
        "path": change.path,
        "before": state_fields(change.before),
        "after": state_fields(change.after),
        "sizes": [_NOT_SENT if data is None else len(data) for data in contents],
        "changed_at": change.changed_at,
        "is_exact": change.is_exact,
    }
    yield json.dumps(message).encode("ascii") + b"\n"
    yield from filter(None, contents)


def state_fields(state: FileState | None) -> dict[str, str | int] | None:
    """Returns a state as JSON."""
    if state is None:
        return None
    return {"kind": state.kind, "size": state.size, "sha256": state.sha256, "identity": state.identity}


def state_in(fields: object) -> FileState | None:
    """Returns the state that was sent. Raises ValueError."""
    if fields is None:
        return None
    about = fields if isinstance(fields, dict) else {}
    kind, size, sha256, identity = (about.get(name) for name in ("kind", "size", "sha256", "identity"))
    is_readable = (
        kind in {*KINDS, OTHER}
        and isinstance(size, int)
        and isinstance(sha256, str)
        and _HASH.fullmatch(sha256)
        and isinstance(identity, str)
        and _IDENTITY.fullmatch(identity)
    )
    if not is_readable:
        raise ValueError("a state that no file has")
    return FileState(str(kind), int(str(size)), str(sha256), str(identity))


def _path(path: object) -> str:
    """Returns a path if it is one below the root."""
    if not isinstance(path, str) or "\0" in path or {"", ".", ".."}.intersection(path.split("/")):
        raise ValueError("a path that leads elsewhere")
    return path


def _size(size: object) -> int | None:
    if not isinstance(size, int) or not _NOT_SENT <= size <= MAX_CONTENT_BYTES:
        raise ValueError("a size that no content has")
    return None if size == _NOT_SENT else size


async def _sha256(data: bytes) -> str:
    if len(data) <= _HASHED_AT_ONCE_BYTES:
        return hashlib.sha256(data).hexdigest()
    return await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
