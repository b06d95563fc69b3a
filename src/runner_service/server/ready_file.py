"""Announces the service's address, once it accepts calls, to the process that spawned it and to later commands."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from runner_service.state_dir import SERVICE_FILE, STOPPING
from runner_service.version import VERSION


class ServiceFile:
    """The SERVICE_FILE of a STATE_DIR. Constructed by `service_file`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._facts: dict[str, object] = {}

    async def write(self, address: str, about: Mapping[str, str]) -> None:
        """Describes the service, which can be called from now on. Raises OSError."""
        self._facts = _facts(address, about)
        await asyncio.to_thread(_replace, self._path, _line(self._facts))

    async def mark_stopping(self) -> None:
        """Says that the service is about to release STATE_DIR. On a disk that cannot be written it stays unsaid."""
        if self._facts:
            self._facts[STOPPING] = True
            with suppress(OSError):
                await asyncio.to_thread(_replace, self._path, _line(self._facts))

    async def remove(self) -> None:
        """Removes the file, unless a successor has already replaced it."""
        if self._facts:
            await asyncio.to_thread(_remove_own, self._path, _line(self._facts))


@asynccontextmanager
async def service_file(state_dir: Path) -> AsyncIterator[ServiceFile]:
    """Removes the file at exit: enter this before STATE_DIR is locked, so that it stays until the lock is released."""
    file = ServiceFile(state_dir / SERVICE_FILE)
    try:
        yield file
    finally:
        await file.remove()


@asynccontextmanager
async def announce_ready(
    address: str, *, fd: int | None = None, file: Path | None = None, about: Mapping[str, str] | None = None
) -> AsyncIterator[None]:
    """Writes a JSON line `{"address", "pid", "version"}` and `about` to a descriptor, which is closed, and to a file.

    The file is created atomically and removed when the context exits.

    Raises:
        OSError: one of them cannot be written.
    """
    line = _line(_facts(address, about or {}))
    if fd is not None:
        await asyncio.to_thread(_write_to_descriptor, fd, line)
    if file is None:
        yield
        return
    await asyncio.to_thread(_replace, file, line)
    try:
        yield
    finally:
        await asyncio.to_thread(_remove_own, file, line)


def _facts(address: str, about: Mapping[str, str]) -> dict[str, object]:
    return {"address": address, "pid": os.getpid(), "version": VERSION, **about}


def _line(facts: Mapping[str, object]) -> str:
    return json.dumps(facts) + "\n"


def _write_to_descriptor(fd: int, line: str) -> None:
    with os.fdopen(fd, "w") as stream:
        stream.write(line)


def _replace(file: Path, line: str) -> None:
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with os.fdopen(
        os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644), "w"
    ) as stream:  # in a world-writable directory, another user could have planted a link
        stream.write(line)
    draft.replace(file)


def _remove_own(file: Path, line: str) -> None:
    """Removes the file, unless a successor has already replaced it.

    On a disk that has become read-only it stays, as after SIGKILL; a reader finds nothing at the address.
    """
    with suppress(OSError):
        if file.read_text() == line:
            file.unlink()
