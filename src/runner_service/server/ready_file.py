"""Tells whoever spawned the service where it is, once it can be called."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from pathlib import Path


@asynccontextmanager
async def announced(
    address: str, *, fd: int | None = None, file: Path | None = None, about: Mapping[str, str] | None = None
) -> AsyncIterator[None]:
    """Writes one line of JSON, `{"address", "pid", "version"}`, to the descriptor, which it closes, and to the file.

    What `about` holds is added to it. The file appears whole, and goes away on leaving.

    Raises:
        OSError: one of them cannot be written.
    """
    facts = {"address": address, "pid": os.getpid(), "version": version("runner-service")}
    line = json.dumps(facts | dict(about or {})) + "\n"
    if fd is not None:
        await asyncio.to_thread(_write_and_close, fd, line)
    if file is None:
        yield
        return
    await asyncio.to_thread(_replace, file, line)
    try:
        yield
    finally:
        await asyncio.to_thread(_remove_own, file, line)


def _write_and_close(fd: int, line: str) -> None:
    with os.fdopen(fd, "w") as stream:
        stream.write(line)


def _replace(file: Path, line: str) -> None:
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    with draft.open("x") as stream:  # in a directory of all users, another could have put a link there
        stream.write(line)
    draft.replace(file)


def _remove_own(file: Path, line: str) -> None:
    """Removes the file, unless a successor has already put its own there.

    On a disk that has become read-only it stays, as after a kill; whoever reads it finds nobody at the address.
    """
    with suppress(OSError):
        if file.read_text() == line:
            file.unlink()
