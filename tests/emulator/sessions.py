"""Sessions: commands one after the other in one shell, which keeps its state; their output is labelled line by line."""

import asyncio
import os
import secrets
import shlex
import signal
import subprocess
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import WSCloseCode, web
from tests.emulator.cloud import CLOUD
from tests.emulator.errors import ToolboxRefused
from tests.emulator.files import reached
from tests.emulator.processes import SHELL, in_thread, kill_group, started

_MARKS = {"stdout": b"\x01\x01\x01", "stderr": b"\x02\x02\x02"}
_END_GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.02


@dataclass
class SessionCommand:
    """A command of a session. `log` is labelled; `exit_code` is None until it ends, and if it ends its shell."""

    id: str
    text: str
    directory: Path
    log: bytearray = field(default_factory=bytearray)
    exit_code: int | None = None


@dataclass
class Session:
    """A session: its shell, and its commands, of which one runs at a time."""

    id: str
    directory: Path
    shell: subprocess.Popen[bytes]
    commands: dict[str, SessionCommand] = field(default_factory=dict)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    tasks: set[asyncio.Task[None]] = field(default_factory=set)

    def close(self) -> None:
        """Lets go of a shell that has been killed."""
        for task in self.tasks:
            task.cancel()
        with self.shell:
            self.shell.wait()


async def create(request: web.Request) -> web.Response:
    name = (await request.json())["sessionId"]
    sandbox = await reached(request)
    if name in sandbox.sessions:
        raise ToolboxRefused(409, "session already exists")
    directory = sandbox.work / ".daytona" / "sessions" / name
    directory.mkdir(parents=True, exist_ok=True)
    shell = started(SHELL, cwd=str(sandbox.work), env=sandbox.environment(), stderr=subprocess.DEVNULL)
    sandbox.sessions[name] = Session(name, directory, shell)
    return web.Response(status=201)


async def list_sessions(request: web.Request) -> web.Response:
    return web.json_response([_session_described(each) for each in (await reached(request)).sessions.values()])


async def get(request: web.Request) -> web.Response:
    return web.json_response(_session_described(await _session(request)))


async def delete(request: web.Request) -> web.Response:
    """Ends the shell's group, by force after a while; what has left the group lives on."""
    session = await _session(request)
    with suppress(ProcessLookupError):
        os.killpg(session.shell.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        await in_thread(lambda: session.shell.wait(_END_GRACE_SECONDS))
    kill_group(session.shell)
    session.close()
    (await reached(request)).sessions.pop(session.id, None)
    return web.Response(status=204)


async def execute(request: web.Request) -> web.Response:
    session = await _session(request)
    asked = await request.json()
    new = secrets.token_hex(8)
    command = SessionCommand(new, asked["command"], session.directory / new)
    await asyncio.to_thread(_prepare, command)
    session.commands[command.id] = command
    task = asyncio.create_task(_run(session, command, keeps_input=bool(asked.get("runAsync"))))
    session.tasks.add(task)
    task.add_done_callback(session.tasks.discard)
    nothing = dict.fromkeys(("output", "stdout", "stderr", "exitCode"))
    if asked.get("runAsync"):
        return web.json_response({"cmdId": command.id, **nothing}, status=202)
    await task
    body = {"cmdId": command.id, **_outputs(command)}
    return web.json_response({**body, "exitCode": command.exit_code})


async def get_command(request: web.Request) -> web.Response:
    return web.json_response(_described(await _command(request)))


async def send_input(request: web.Request) -> web.Response:
    command = await _command(request)
    if command.exit_code is not None:
        raise ToolboxRefused(410, "command already completed", "COMMAND_ALREADY_COMPLETED")
    text = (await request.json())["data"] + "\n"
    await in_thread(lambda: (command.directory / "stdin").write_text(text))
    return web.Response(status=204)


async def _run(session: Session, command: SessionCommand, *, keeps_input: bool) -> None:
    async with session.turn:
        stdin = os.open(command.directory / "stdin", os.O_RDWR) if keeps_input else None
        try:
            threads = [
                threading.Thread(target=_label, args=(command.directory / each, each, command.log), daemon=True)
                for each in _MARKS
            ]
            for thread in threads:
                thread.start()
            assert session.shell.stdin
            session.shell.stdin.write(_line(command, keeps_input=keeps_input).encode())
            session.shell.stdin.flush()
            while any(thread.is_alive() for thread in threads):
                await asyncio.sleep(_POLL_SECONDS / 4)
            # A command that ends its shell writes none, and nobody will ever hear of its end.
            while not (command.directory / "exit").exists():
                await asyncio.sleep(_POLL_SECONDS)
            command.exit_code = int((command.directory / "exit").read_text())
        finally:
            if stdin is not None:
                os.close(stdin)


def _prepare(command: SessionCommand) -> None:
    command.directory.mkdir()
    (command.directory / "cmd.sh").write_text(command.text + "\n")
    for name in ("stdin", *_MARKS):
        os.mkfifo(command.directory / name)


def _line(command: SessionCommand, *, keeps_input: bool) -> str:
    there = shlex.quote(str(command.directory))
    stdin = f"{there}/stdin" if keeps_input else "/dev/null"
    run = f"{{ . {there}/cmd.sh; }} <{stdin} >{there}/stdout 2>{there}/stderr"
    return f"{run}; echo $? >{there}/partial; mv {there}/partial {there}/exit\n"


def _label(fifo: Path, stream: str, log: bytearray) -> None:
    """Marks every line; a last one without an end gets one, and NUL bytes vanish."""
    with fifo.open("rb") as pipe:
        for line in pipe:
            log += _MARKS[stream] + line.replace(b"\0", b"").removesuffix(b"\n") + b"\n"


async def logs(request: web.Request) -> web.StreamResponse:
    command = await _command(request)
    if request.query.get("follow") != "true":
        return web.json_response(_outputs(command))
    faults = request.app[CLOUD].faults
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
        await asyncio.sleep(_POLL_SECONDS)
        quiet += _POLL_SECONDS
    await socket.close(code=WSCloseCode.OK)
    return socket


async def _sent_within(seconds: float, socket: web.WebSocketResponse, data: bytes) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await socket.send_bytes(data)
    except TimeoutError:
        return False
    return True


def _outputs(command: SessionCommand) -> Mapping[str, str]:
    """Returns the output: all of it with its labels, and each stream without."""
    streams = {"stdout": b"", "stderr": b""}
    for line in bytes(command.log).splitlines(keepends=True):
        stream = "stdout" if line.startswith(_MARKS["stdout"]) else "stderr"
        streams[stream] += line[3:]
    return {each: data.decode("utf-8", "replace") for each, data in {**streams, "output": bytes(command.log)}.items()}


def _session_described(session: Session) -> dict[str, object]:
    return {"sessionId": session.id, "commands": [_described(each) for each in session.commands.values()]}


def _described(command: SessionCommand) -> dict[str, object]:
    ended = {} if command.exit_code is None else {"exitCode": command.exit_code}
    return {"id": command.id, "command": command.text, **ended}


async def _session(request: web.Request) -> Session:
    session = (await reached(request)).sessions.get(request.match_info["session"])
    if not isinstance(session, Session):
        raise ToolboxRefused(404, "session not found")
    return session


async def _command(request: web.Request) -> SessionCommand:
    try:
        return (await _session(request)).commands[request.match_info["command"]]
    except KeyError:
        raise ToolboxRefused(404, "command not found") from None
