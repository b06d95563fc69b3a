"""An MCP server as a command of the sandbox: it ends with the sandbox, as all that runs there does.

A command's stdin is closed, so the server reads from a FIFO instead; what it writes comes as a command's output does.
"""

import asyncio
import os
import shlex
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCMessage
from pydantic import ValidationError

from runner_service.executors import Command, CommandResult, Sandbox, SandboxError, Stream
from runner_service.field_rules import PLACEHOLDER
from runner_service.redaction import Redactor
from runner_service.v1 import agent_runner_pb2 as runner_pb2

_FOR_EVER = 30 * 24 * 3600.0
_LONGEST_MESSAGE = 32 * 1024 * 1024
_KEPT_COMPLAINT = 2000
_GOODBYE_WITHIN = 0.5


class Streams(NamedTuple):
    """What a session of MCP reads from and writes to."""

    read: MemoryObjectReceiveStream[SessionMessage | Exception]
    write: MemoryObjectSendStream[SessionMessage]


class ServerOutput:
    """Takes what the server writes: messages to the session, and the end of what it complains of is kept."""

    def __init__(self, session: MemoryObjectSendStream[SessionMessage | Exception], redactor: Redactor) -> None:
        self._session = session
        self._clean = redactor.stream()  # before it is cut: half a secret would not be recognised
        self._rest = b""
        self._complaint = b""

    @property
    def complaint(self) -> str:
        """The last that it wrote to stderr."""
        return self._complaint.decode("utf-8", "replace").strip()

    async def write(self, stream: Stream, data: bytes) -> None:
        """Takes the next bytes."""
        if stream == "stderr":
            self._complaint = (self._complaint + self._clean.feed(data))[-_KEPT_COMPLAINT:]
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > _LONGEST_MESSAGE:
            raise SandboxError(f"the MCP server wrote a message of more than {_LONGEST_MESSAGE:,} bytes")
        for line in lines:
            with suppress(ValidationError, anyio.ClosedResourceError, anyio.BrokenResourceError):
                # What is no message is something that the server has printed by mistake.
                await self._session.send(SessionMessage(JSONRPCMessage.model_validate_json(line)))


@asynccontextmanager
async def stdio_server(
    sandbox: Sandbox, stdio: runner_pb2.StdioServer, outputs: list[ServerOutput], redactor: Redactor, directory: Path
) -> AsyncIterator[Streams]:
    """Runs a server until the context ends. `outputs` is given what takes its output; the FIFO is in `directory`.

    Raises:
        OSError: there can be no FIFO.
    """
    to_session, from_server = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    to_server, from_session = anyio.create_memory_object_stream[SessionMessage](0)
    output = ServerOutput(to_session, redactor)
    outputs.append(output)
    async with _fifo(directory) as (path, stdin):
        command = Command(command_text(stdio, path), _FOR_EVER, output)
        running = asyncio.create_task(_run(sandbox, command, to_session), name="mcp-server")
        writing = asyncio.create_task(_feed(stdin, from_session), name="mcp-stdin")
        try:
            yield Streams(from_server, to_server)
        finally:
            for end in (to_session, from_server, to_server, from_session):
                end.close()
            await _ended(writing, running, stdin)


def command_text(stdio: runner_pb2.StdioServer, stdin: str) -> str:
    """The shell's command. Values of variables are left to the shell, so that no secret is in the text."""
    parts = [f"cd {shlex.quote(stdio.working_directory)}"] if stdio.working_directory else []
    parts += _exports(stdio.environment)
    program = " ".join(shlex.quote(each) for each in (stdio.command, *stdio.args))
    return " && ".join([*parts, f"exec {program} < {shlex.quote(stdin)}"])


def _exports(environment: Mapping[str, str]) -> list[str]:
    """All are made at once, so that each placeholder means a variable of the request."""
    words = [f"{name}={_expanded(value)}" for name, value in environment.items()]
    return [f"export {' '.join(words)}"] if words else []


def _expanded(value: str) -> str:
    """A word of the shell for a value: its literal parts quoted, each `${NAME}` in double quotes."""
    parts = PLACEHOLDER.split(value)
    words = [f'"${{{part}}}"' if index % 2 else shlex.quote(part) for index, part in enumerate(parts)]
    return "".join(words)


async def _run(
    sandbox: Sandbox, command: Command, to_session: MemoryObjectSendStream[SessionMessage | Exception]
) -> CommandResult | None:
    """Runs the server; when it has ended, the session learns of it."""
    try:
        return await sandbox.run(command)
    except SandboxError:
        return None
    finally:
        to_session.close()


async def _ended(writing: asyncio.Task[None], running: "asyncio.Task[CommandResult | None]", stdin: FileIO) -> None:
    """Ends the server: the end of its stdin is how it is asked to go. The sandbox ends it if this is cut short."""
    writing.cancel()
    await asyncio.wait([writing])
    stdin.close()
    await asyncio.wait([running], timeout=_GOODBYE_WITHIN)
    running.cancel()
    await asyncio.wait([running])


async def _feed(stdin: FileIO, from_session: MemoryObjectReceiveStream[SessionMessage]) -> None:
    async for message in from_session:
        line = message.message.model_dump_json(by_alias=True, exclude_none=True)
        rest = memoryview(line.encode() + b"\n")
        while rest:
            if (written := stdin.write(rest)) is None:  # the pipe is full
                await _writable(stdin.fileno())
            else:
                rest = rest[written:]


async def _writable(descriptor: int) -> None:
    loop = asyncio.get_running_loop()
    ready = loop.create_future()

    def tell() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_writer(descriptor, tell)
    try:
        await ready
    finally:
        loop.remove_writer(descriptor)


@asynccontextmanager
async def _fifo(directory: Path) -> AsyncIterator[tuple[str, FileIO]]:
    """Makes a FIFO that only this user can open; gives its path, and a file that writes to it without waiting."""
    path = await asyncio.to_thread(_make_fifo, directory)
    try:
        # Open for both: to open it for writing alone would wait for the reader.
        with FileIO(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC), "wb") as stdin:
            yield path, stdin
    finally:
        await asyncio.to_thread(shutil.rmtree, Path(path).parent, ignore_errors=True)


def _make_fifo(directory: Path) -> str:
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = f"{tempfile.mkdtemp(dir=directory)}/stdin"
    os.mkfifo(path, 0o600)
    return path
