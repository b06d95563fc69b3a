"""Announces the service's address to the process that spawned it, once it accepts calls."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from pathlib import Path


@asynccontextmanager
async def announce_ready(
    address: str, *, fd: int | None = None, file: Path | None = None, about: Mapping[str, str] | None = None
) -> AsyncIterator[None]:
    """Writes a JSON line `{"address", "pid", "version"}` and `about` to a descriptor, which is closed, and to a file.

    The file is created atomically and removed when the context exits.

    Raises:
        OSError: one of them cannot be written.
    """
    facts = {"address": address, "pid": os.getpid(), "version": version("runner-service")}
    line = json.dumps(facts | dict(about or {})) + "\n"
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


def _write_to_descriptor(fd: int, line: str) -> None:
    with os.fdopen(fd, "w") as stream:
        stream.write(line)


def _replace(file: Path, line: str) -> None:
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with draft.open("x") as stream:  # in a world-writable directory, another user could have planted a link
        stream.write(line)
    draft.replace(file)


def _remove_own(file: Path, line: str) -> None:
    """Removes the file, unless a successor has already replaced it.

    On a disk that has become read-only it stays, as after SIGKILL; a reader finds nothing at the address.
    """
    with suppress(OSError):
        if file.read_text() == line:
            file.unlink()
