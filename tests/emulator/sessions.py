"""Sessions: commands one after the other in one shell, their output labelled line by line and followed by WebSocket."""

import asyncio
import secrets
import subprocess
import threading
from dataclasses import dataclass, field
from typing import IO

from aiohttp import WSCloseCode, web
from tests.emulator.cloud import CLOUD, Refused, Sandbox
from tests.emulator.processes import in_thread, kill_group, started

_MARKS = {"stdout": b"\x01\x01\x01", "stderr": b"\x02\x02\x02"}


@dataclass
class SessionCommand:
    """A command of a session. `log` is labelled; `exit_code` is None while it runs."""

    id: str
    text: str
    log: bytearray = field(default_factory=bytearray)
    exit_code: int | None = None
    process: subprocess.Popen[bytes] | None = None


@dataclass
class Session:
    """A session: its commands, of which one runs at a time."""

    id: str
    commands: dict[str, SessionCommand] = field(default_factory=dict)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)


async def create(request: web.Request) -> web.Response:
    name = (await request.json())["sessionId"]
    _sandbox(request).sessions[name] = Session(name)
    return web.json_response({"sessionId": name}, status=201)


async def get(request: web.Request) -> web.Response:
    session = _session(request)
    commands = [_described(each) for each in session.commands.values()]
    return web.json_response({"sessionId": session.id, "commands": commands})


async def delete(request: web.Request) -> web.Response:
    session = _session(request)
    for command in session.commands.values():
        if command.process and command.process.poll() is None:
            kill_group(command.process)
    if session.tasks:
        await asyncio.wait(session.tasks)
    del _sandbox(request).sessions[session.id]
    return web.Response(status=204)


async def execute(request: web.Request) -> web.Response:
    session = _session(request)
    parameters = await request.json()
    command = SessionCommand(secrets.token_hex(8), parameters["command"])
    session.commands[command.id] = command
    task = asyncio.create_task(_run(_sandbox(request), session, command))
    session.tasks.add(task)
    task.add_done_callback(session.tasks.discard)
    if parameters.get("runAsync"):
        return web.json_response({"cmdId": command.id}, status=202)
    await task
    stdout, stderr = _split(bytes(command.log))
    body = {"cmdId": command.id, "output": stdout + stderr, "stdout": stdout, "stderr": stderr}
    return web.json_response({**body, "exitCode": command.exit_code})


async def get_command(request: web.Request) -> web.Response:
    return web.json_response(_described(_command(request)))


async def logs(request: web.Request) -> web.StreamResponse:
    if request.query.get("follow") != "true":
        stdout, stderr = _split(bytes(_command(request).log))
        return web.json_response({"output": stdout + stderr, "stdout": stdout, "stderr": stderr})
    faults = request.app[CLOUD].faults
    command = _command(request)
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    sent, quiet = 0, 0.0
    while quiet < faults.eof_lag or command.exit_code is None:
        data = bytes(command.log[sent : sent + faults.frame_size])
        if data:
            is_stalled = not await _sent_within(faults.socket_patience, socket, data)
            sent, quiet = sent + len(data), 0.0
            if is_stalled or (faults.socket_cut_after is not None and sent >= faults.socket_cut_after):
                assert request.transport is not None
                request.transport.abort()
                return socket
            continue
        await asyncio.sleep(0.02)
        quiet += 0.02
    await socket.close(code=WSCloseCode.OK)
    return socket


async def _sent_within(seconds: float, socket: web.WebSocketResponse, data: bytes) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await socket.send_bytes(data)
    except TimeoutError:
        return False
    return True


async def _run(sandbox: Sandbox, session: Session, command: SessionCommand) -> None:
    async with session.turn:
        await in_thread(lambda: _run_in_shell(sandbox, command))


def _run_in_shell(sandbox: Sandbox, command: SessionCommand) -> None:
    shell = ("bash", "-c", command.text)
    with started(*shell, cwd=str(sandbox.work), env=sandbox.environment(), stderr=subprocess.PIPE) as process:
        command.process = process
        assert process.stdin
        assert process.stdout
        assert process.stderr
        process.stdin.close()
        errors = threading.Thread(target=_label, args=(process.stderr, "stderr", command.log))
        errors.start()
        _label(process.stdout, "stdout", command.log)
        errors.join()
        command.exit_code = process.wait()


def _label(pipe: IO[bytes], stream: str, log: bytearray) -> None:
    """Marks every line; a last one without an end gets one, and NUL bytes vanish."""
    for line in pipe:
        log += _MARKS[stream] + line.replace(b"\0", b"").removesuffix(b"\n") + b"\n"


def _split(log: bytes) -> tuple[str, str]:
    streams = {"stdout": b"", "stderr": b""}
    for line in log.splitlines(keepends=True):
        stream = "stdout" if line.startswith(_MARKS["stdout"]) else "stderr"
        streams[stream] += line[3:]
    return streams["stdout"].decode("utf-8", "replace"), streams["stderr"].decode("utf-8", "replace")


def _described(command: SessionCommand) -> dict[str, object]:
    ended = {} if command.exit_code is None else {"exitCode": command.exit_code}
    return {"id": command.id, "command": command.text, **ended}


def _sandbox(request: web.Request) -> Sandbox:
    return request.app[CLOUD].running(request.match_info["sandbox"])


def _session(request: web.Request) -> Session:
    session = _sandbox(request).sessions.get(request.match_info["session"])
    if not isinstance(session, Session):
        raise Refused(404, "session not found")
    return session


def _command(request: web.Request) -> SessionCommand:
    try:
        return _session(request).commands[request.match_info["command"]]
    except KeyError:
        raise Refused(404, "command not found") from None
