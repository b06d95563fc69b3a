"""File operations as requests, and temporary files for transfers."""

import base64
import dataclasses
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

from runner_service.executors.protocol import FileError, Sandbox, TextLines

_CHUNK_BYTES = 256 * 1024
_INLINE_BYTES = 512 * 1024

Operation = Callable[[Sandbox, dict[str, Any]], Awaitable[Any]]


async def _list(sandbox: Sandbox, request: dict[str, Any]) -> Any:
    return [dataclasses.asdict(entry) for entry in await sandbox.list_directory(request["path"])]


async def _read(sandbox: Sandbox, request: dict[str, Any]) -> Any:
    content = await sandbox.read_text(
        request["path"], offset=request["offset"], limit=request["limit"], agent=request["agent"]
    )
    return {"is_text": isinstance(content, TextLines), "fields": dataclasses.asdict(content)}


async def _write(sandbox: Sandbox, request: dict[str, Any]) -> Any:
    await sandbox.write_text(request["path"], request["text"], agent=request["agent"])


async def _edit(sandbox: Sandbox, request: dict[str, Any]) -> Any:
    arguments = {name: request[name] for name in ("path", "old", "new", "replace_all", "agent")}
    return await sandbox.edit_text(**arguments)


async def _delete(sandbox: Sandbox, request: dict[str, Any]) -> Any:
    await sandbox.delete(request["path"])


async def _glob(sandbox: Sandbox, request: dict[str, Any]) -> Any:
    return dataclasses.asdict(
        await sandbox.glob(request["pattern"], request["path"], include_ignored=request["include_ignored"])
    )


async def _grep(sandbox: Sandbox, request: dict[str, Any]) -> Any:
    arguments = {name: request[name] for name in ("pattern", "path", "include", "limit", "include_ignored")}
    found = await sandbox.grep(**arguments)
    return dataclasses.asdict(found)


async def _upload(sandbox: Sandbox, request: dict[str, Any]) -> Any:
    """Writes a file: the data of a small one is in the request, of a large one in parts that were uploaded."""
    data = request.get("data")
    chunks = _chunks(request["transfers"]) if data is None else _chunk(base64.b64decode(data))
    await sandbox.upload(request["path"], chunks, mode=request["mode"])


async def _download(sandbox: Sandbox, request: dict[str, Any]) -> Any:
    """Copies a file to the transfers, a snapshot to download; a small one is returned inline."""
    copy = _transfer(request["transfer"])
    size = 0
    with os.fdopen(os.open(copy, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), "w+b") as file:
        try:
            async for chunk in sandbox.download(request["path"]):
                size += file.write(chunk)
        except BaseException:
            copy.unlink(missing_ok=True)
            raise
        if size > _INLINE_BYTES:
            return {"size": size}
        file.seek(0)
        copy.unlink(missing_ok=True)
        return {"data": base64.b64encode(file.read()).decode()}


async def _discard(sandbox: Sandbox, request: dict[str, Any]) -> Any:
    """Removes temporary files."""
    del sandbox
    for name in request["transfers"]:
        _transfer(name).unlink(missing_ok=True)


OPERATIONS: dict[str, Operation] = {
    "list": _list,
    "read": _read,
    "write": _write,
    "edit": _edit,
    "delete": _delete,
    "glob": _glob,
    "grep": _grep,
    "upload": _upload,
    "download": _download,
    "discard": _discard,
}
"""Handlers by operation name; arguments are named as in the Protocol."""


def _transfer(name: str) -> Path:
    transfer = Path(name)
    if transfer.parent.name != "transfers":
        raise FileError("invalid", "a transfer must be in the directory of transfers")
    return transfer


async def _chunk(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _chunks(names: list[str]) -> AsyncIterator[bytes]:
    for name in names:
        with _transfer(name).open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk
