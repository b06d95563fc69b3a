"""What is done inside of a sandbox: scripts, and files."""

import asyncio
import json
import subprocess
from pathlib import Path
from urllib.parse import quote

from aiohttp import web
from tests.emulator.cloud import CLOUD, Refused, Sandbox
from tests.emulator.processes import in_thread, kill_group, started

_CHUNK_BYTES = 256 * 1024


async def work_dir(request: web.Request) -> web.Response:
    return web.json_response({"dir": str(_sandbox(request).work)})


async def home_dir(request: web.Request) -> web.Response:
    return web.json_response({"dir": str(_sandbox(request).directory / "home")})


async def version(request: web.Request) -> web.Response:
    _sandbox(request)
    return web.json_response({"version": "0.0.0-emulated"})


async def execute(request: web.Request) -> web.Response:
    """Gives a script to a shell's stdin; with a time-out the shell's process group is killed and all output lost."""
    sandbox = _sandbox(request)
    parameters = await request.json()
    sandbox.executed.append(parameters["command"])
    await asyncio.sleep(request.app[CLOUD].faults.exec_delay)
    environment = sandbox.environment() | (parameters.get("envs") or {})
    cwd = str(parameters.get("cwd") or sandbox.work)
    try:
        code, output = await in_thread(
            lambda: _run_script(parameters["command"].encode(), cwd, environment, parameters.get("timeout"))
        )
    except subprocess.TimeoutExpired:
        return web.json_response({"statusCode": 408, "message": "timeout", "code": "REQUEST_TIMEOUT"}, status=408)
    except OSError as error:
        return web.json_response({"exitCode": -1, "result": str(error)})
    if sandbox.state != "started":
        raise Refused(502, "")
    return web.json_response({"exitCode": max(code, -1), "result": output.decode("utf-8", "replace")})


def _run_script(script: bytes, cwd: str, environment: dict[str, str], seconds: float | None) -> tuple[int, bytes]:
    with started("bash", cwd=cwd, env=environment, stderr=subprocess.STDOUT) as shell:
        try:
            output, _ = shell.communicate(script, timeout=seconds)
        except subprocess.TimeoutExpired:
            kill_group(shell)
            raise
        return shell.returncode, output


async def bulk_upload(request: web.Request) -> web.Response:
    sandbox = _sandbox(request)
    path = ""
    written = []
    async for part in await request.multipart():
        name = getattr(part, "name", "") or ""
        if name.endswith(".path"):
            path = (await part.read(decode=False)).decode()  # type: ignore[union-attr]  # no part within a part
        elif name.endswith(".file"):
            target = _path(sandbox, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                while chunk := await part.read_chunk(_CHUNK_BYTES):  # type: ignore[union-attr]  # as above
                    file.write(chunk)
            written.append({"path": path, "bytes": target.stat().st_size})
    return web.json_response({"files": written})


async def bulk_download(request: web.Request) -> web.StreamResponse:
    sandbox = _sandbox(request)
    boundary = "emulated-boundary"
    response = web.StreamResponse(headers={"Content-Type": f"multipart/form-data; boundary={boundary}"})
    paths = (await request.json())["paths"]
    await response.prepare(request)
    for path in paths:
        await _send_part(response, boundary, path, _path(sandbox, path), cut=request.get("cut", False))
    await response.write(f"--{boundary}--\r\n".encode())
    await response.write_eof()
    return response


async def _send_part(response: web.StreamResponse, boundary: str, name: str, path: Path, *, cut: bool) -> None:
    shown = f"filename=\"file\"; filename*=utf-8''{quote(name)}"
    if not path.is_file():  # noqa: ASYNC240  # a test may block for this long
        error = json.dumps({"statusCode": 404, "message": "file not found", "code": "FILE_NOT_FOUND"})
        kind = f'Content-Disposition: form-data; name="error"; {shown}\r\nContent-Type: application/json'
        await response.write(f"--{boundary}\r\n{kind}\r\n\r\n{error}\r\n".encode())
        return
    size = path.stat().st_size  # noqa: ASYNC240  # as above
    kind = f'Content-Disposition: form-data; name="file"; {shown}\r\nContent-Length: {size}'
    await response.write(f"--{boundary}\r\n{kind}\r\nContent-Type: application/octet-stream\r\n\r\n".encode())
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            if cut and file.tell() > size / 2:
                raise ConnectionResetError
            await response.write(chunk)
    await response.write(b"\r\n")


async def list_files(request: web.Request) -> web.Response:
    directory = _path(_sandbox(request), request.query.get("path", ""))
    if not directory.is_dir():
        raise Refused(404, "no such directory")
    return web.json_response([_described(path) for path in sorted(directory.iterdir())])


async def file_info(request: web.Request) -> web.Response:
    path = _path(_sandbox(request), request.query["path"])
    if not path.exists():
        raise Refused(404, "no such file")
    return web.json_response(_described(path))


async def delete_file(request: web.Request) -> web.Response:
    path = _path(_sandbox(request), request.query["path"])
    if not path.exists():
        raise Refused(404, "no such file")
    path.unlink()
    return web.Response(status=204)


def _described(path: Path) -> dict[str, object]:
    found = path.stat()
    return {
        "name": path.name,
        "size": found.st_size,
        "mode": oct(found.st_mode),
        "modTime": str(found.st_mtime),
        "isDir": path.is_dir(),
        "owner": "daytona",
        "group": "daytona",
        "permissions": oct(found.st_mode & 0o777),
    }


def _path(sandbox: Sandbox, path: str) -> Path:
    return sandbox.work / path


def _sandbox(request: web.Request) -> Sandbox:
    sandbox = request.app[CLOUD].running(request.match_info["sandbox"])
    sandbox.activity += 1
    return sandbox
