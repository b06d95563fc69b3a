"""What the toolbox does with files."""

import errno
import json
import os
import stat
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from aiohttp import web
from tests.emulator.cloud import CLOUD, Sandbox
from tests.emulator.errors import EmptyRefused, ToolboxRefused

_CHUNK_BYTES = 256 * 1024


async def bulk_upload(request: web.Request) -> web.Response:
    sandbox = await reached(request)
    path, written, errors = "", [], []
    async for part in await request.multipart():
        name = getattr(part, "name", "") or ""
        if name.endswith(".path"):
            path = (await part.read(decode=False)).decode()  # type: ignore[union-attr]  # no part within a part
        elif name.endswith(".file"):
            try:
                written.append({"path": path, "bytes": await _save(request, sandbox.work / path, part)})
            except OSError as error:
                errors.append(f"{path}: open {path}: {(error.strerror or '').lower()}")
    if errors:
        return web.json_response({"errors": errors, "files": written or None}, status=400)
    return web.json_response({"files": written})


async def _save(request: web.Request, target: Path, part: object) -> int:
    faults = request.app[CLOUD].faults
    for part_of_path, number in ((faults.full_disk, errno.ENOSPC), (faults.denied, errno.EACCES)):
        if part_of_path and part_of_path in str(target):
            raise OSError(number, os.strerror(number))
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as file:
        while chunk := await part.read_chunk(_CHUNK_BYTES):  # type: ignore[attr-defined]  # as above
            file.write(chunk)
        return file.tell()


async def bulk_download(request: web.Request) -> web.StreamResponse:
    sandbox = await reached(request)
    boundary = "emulated-boundary"
    response = web.StreamResponse(headers={"Content-Type": f"multipart/form-data; boundary={boundary}"})
    if not (paths := (await request.json())["paths"]):
        raise ToolboxRefused(400, "request body must be {paths: [...]} and non-empty")
    await response.prepare(request)
    for path in paths:
        await _send_part(request, response, boundary, path, sandbox.work / path)
    await response.write(f"--{boundary}--\r\n".encode())
    await response.write_eof()
    return response


async def _send_part(request: web.Request, response: web.StreamResponse, boundary: str, name: str, path: Path) -> None:
    shown = f"filename=\"file\"; filename*=utf-8''{quote(name)}"
    if not path.is_file():  # noqa: ASYNC240  # a test may block for this long
        kind = f'Content-Disposition: form-data; name="error"; {shown}\r\nContent-Type: application/json'
        await response.write(f"--{boundary}\r\n{kind}\r\n\r\n{_why_not(request, path)}\r\n".encode())
        return
    size = path.stat().st_size  # noqa: ASYNC240  # as above
    kind = f'Content-Disposition: form-data; name="file"; {shown}\r\nContent-Length: {size}'
    await response.write(f"--{boundary}\r\n{kind}\r\nContent-Type: application/octet-stream\r\n\r\n".encode())
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            if request.get("cut") and file.tell() > size / 2:
                raise ConnectionResetError
            await response.write(chunk)
    await response.write(b"\r\n")


def _why_not(request: web.Request, path: Path) -> str:
    if path.is_dir():
        refused = ToolboxRefused(400, f"{path} is a directory", "INVALID_FILE_PATH")
    else:
        refused = ToolboxRefused(404, f"file not found: {path}", "FILE_NOT_FOUND")
    return json.dumps(refused.body(request))


async def list_files(request: web.Request) -> web.Response:
    directory = (await reached(request)).work / request.query.get("path", "")
    if not directory.is_dir():
        raise EmptyRefused(404)
    return web.json_response([_described(path) for path in sorted(directory.iterdir())])


async def file_info(request: web.Request) -> web.Response:
    path = (await reached(request)).work / request.query["path"]
    if not path.exists():
        raise EmptyRefused(404)
    return web.json_response(_described(path))


async def delete_file(request: web.Request) -> web.Response:
    path = (await reached(request)).work / request.query["path"]
    if not path.exists():
        raise EmptyRefused(404)
    if path.is_dir():
        raise EmptyRefused(400)
    path.unlink()
    return web.Response(status=204)


def _described(path: Path) -> dict[str, object]:
    found = path.stat()
    modified = datetime.fromtimestamp(found.st_mtime, UTC)
    return {
        "name": path.name,
        "size": found.st_size,
        "mode": stat.filemode(found.st_mode),
        "modTime": modified.strftime("%Y-%m-%d %H:%M:%S.%f +0000 UTC"),
        "modifiedAt": modified.isoformat(),
        "isDir": path.is_dir(),
        "owner": "daytona",
        "group": "daytona",
        "permissions": f"{found.st_mode & 0o777:04o}",
    }


async def reached(request: web.Request) -> Sandbox:
    """Returns the sandbox that a request is about, which is in use by this."""
    sandbox = await request.app[CLOUD].reach(request.match_info["sandbox"])
    sandbox.activity += 1
    return sandbox
