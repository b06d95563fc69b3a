"""What the toolbox runs inside of a sandbox by one call, and what it says of itself."""

import asyncio
import re
import subprocess

from aiohttp import web
from tests.emulator.cloud import CLOUD
from tests.emulator.errors import EmptyRefused, ToolboxRefused
from tests.emulator.files import bulk_download, bulk_upload, delete_file, file_info, list_files, reached
from tests.emulator.processes import SHELL, in_thread, kill_group, started

__all__ = ["bulk_download", "bulk_upload", "delete_file", "execute", "file_info", "list_files", "version", "work_dir"]

_VARIABLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


async def work_dir(request: web.Request) -> web.Response:
    return web.json_response({"dir": str((await reached(request)).work)})


async def version(request: web.Request) -> web.Response:
    await reached(request)
    return web.json_response({"version": request.app[CLOUD].version})


async def execute(request: web.Request) -> web.Response:
    """Gives a script to a shell's stdin; with a time-out the shell's process group is killed and all output lost."""
    sandbox = await reached(request)
    asked = await request.json()
    _check(asked)
    sandbox.executed.append(asked["command"])
    sandbox.variables.append(asked.get("envs") or {})
    faults = request.app[CLOUD].faults
    await asyncio.sleep(faults.exec_delay)
    if faults.before_execute:
        await faults.before_execute()
    environment = sandbox.environment() | (asked.get("envs") or {})
    cwd = str(asked.get("cwd") or sandbox.work)
    try:
        code, output = await in_thread(
            lambda: _run_script(asked["command"].encode(), cwd, environment, asked.get("timeout"))
        )
    except subprocess.TimeoutExpired:
        raise ToolboxRefused(408, "command execution timeout") from None
    except OSError as error:
        failed = f"fork/exec {SHELL}: {(error.strerror or '').lower()}"
        return web.json_response({"exitCode": -1, "result": failed})
    if sandbox.state != "started":
        raise EmptyRefused(502)
    return web.json_response({"exitCode": max(code, -1), "result": output.decode("utf-8", "replace")})


def _check(asked: dict[str, object]) -> None:
    if not str(asked.get("command") or "").strip():
        raise ToolboxRefused(400, "command cannot be empty")
    names = asked.get("envs") or {}
    assert isinstance(names, dict)
    if wrong := [name for name in names if not _VARIABLE_NAME.fullmatch(name)]:
        raise ToolboxRefused(400, f"invalid environment variable name: {wrong[0]}")
    seconds = asked.get("timeout")
    if isinstance(seconds, int) and seconds < 0:
        raise ToolboxRefused(400, "json: cannot unmarshal number -1 into Go struct field of type uint32")


def _run_script(script: bytes, cwd: str, environment: dict[str, str], seconds: float | None) -> tuple[int, bytes]:
    with started(SHELL, cwd=cwd, env=environment, stderr=subprocess.STDOUT) as shell:
        try:
            output, _ = shell.communicate(script, timeout=seconds)
        except subprocess.TimeoutExpired:
            kill_group(shell)
            raise
        return shell.returncode, output
