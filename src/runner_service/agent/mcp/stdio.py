"""An MCP server as a command of the sandbox, wherever that is, with which it ends."""

import asyncio
import json
import logging
import shlex
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCMessage

from runner_service.agent.mcp.placeholders import PLACEHOLDER
from runner_service.executors.protocol import Command, CommandResult, Sandbox, SandboxError, Stream
from runner_service.redaction import Redactor
from runner_service.v1 import agent_runner_pb2 as runner_pb2

logger = logging.getLogger(__name__)

MAX_MESSAGE_BYTES = 8 * 1024 * 1024
"""How many bytes a message of a server may have."""

_UNLIMITED_SECONDS = 30 * 24 * 3600.0
_MAX_STDERR_BYTES = 2000
_STOP_TIMEOUT_SECONDS = 0.5


class Streams(NamedTuple):
    """What a session of MCP reads from and writes to."""

    read: MemoryObjectReceiveStream[SessionMessage | Exception]
    write: MemoryObjectSendStream[SessionMessage]


class ServerOutput:
    """Takes what the server writes: messages to the session, and the end of what it complains of is kept.

    `end` says how the server ended; until then it is empty.
    """

    def __init__(self, session: MemoryObjectSendStream[SessionMessage | Exception], redactor: Redactor) -> None:
        self._session = session
        self._clean = redactor.stream()  # before it is cut: half a secret would not be recognised
        self._rest = bytearray()
        self._stderr = b""
        self.end = ""

    @property
    def stderr(self) -> str:
        """The last that it wrote to stderr."""
        return self._stderr.decode("utf-8", "replace").strip()

    async def write(self, stream: Stream, data: bytes) -> None:
        """Takes the next bytes."""
        if stream == "stderr":
            self._stderr = (self._stderr + self._clean.feed(data))[-_MAX_STDERR_BYTES:]
            return
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._add(line)
            whole, self._rest = self._rest, bytearray()
            with suppress(ValueError, RecursionError, anyio.ClosedResourceError, anyio.BrokenResourceError):
                # What is no message is something that the server has printed by mistake.
                await self._session.send(SessionMessage(_message(bytes(whole))))
        self._add(rest)

    def _add(self, data: bytes) -> None:
        self._rest += data
        if len(self._rest) > MAX_MESSAGE_BYTES:
            raise SandboxError(f"it wrote a message of more than {MAX_MESSAGE_BYTES:,} bytes")


@asynccontextmanager
async def stdio_server(
    sandbox: Sandbox, stdio: runner_pb2.StdioServer, outputs: list[ServerOutput], redactor: Redactor
) -> AsyncIterator[Streams]:
    """Runs a server until the context ends. `outputs` is given what takes its output."""
    to_session, from_server = anyio.create_memory_object_stream[SessionMessage | Exception](0)
    to_server, from_session = anyio.create_memory_object_stream[SessionMessage](0)
    output = ServerOutput(to_session, redactor)
    outputs.append(output)
    command = Command(command_text(stdio), _UNLIMITED_SECONDS, output, stdin=_lines(from_session))
    running = asyncio.create_task(_run(sandbox, command, to_session, output), name="mcp-server")
    try:
        yield Streams(from_server, to_server)
    finally:
        for end in (to_session, from_server, to_server):
            end.close()
        # With `to_server` its stdin has ended, which is how it is asked to go.
        await asyncio.wait([running], timeout=_STOP_TIMEOUT_SECONDS)
        running.cancel()
        await asyncio.wait([running])
        from_session.close()


def command_text(stdio: runner_pb2.StdioServer) -> str:
    """The shell's command. Values of variables are left to the shell, so that no secret is in the text."""
    parts = [f"cd {shlex.quote(stdio.working_directory)}"] if stdio.working_directory else []
    parts += _exports(stdio.environment)
    program, *arguments = (shlex.quote(each) for each in (stdio.command, *stdio.args))
    missing = shlex.quote(f"it needs {stdio.command}, which is not installed where the agent's commands run")
    parts.append(f"{{ command -v {program} > /dev/null || {{ echo {missing} >&2; exit 127; }}; }}")
    return " && ".join([*parts, " ".join(["exec", program, *arguments])])


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
    sandbox: Sandbox,
    command: Command,
    to_session: MemoryObjectSendStream[SessionMessage | Exception],
    output: ServerOutput,
) -> None:
    """Runs the server; when it has ended, the session learns of it."""
    try:
        output.end = _end(await sandbox.run(command))
    except SandboxError as error:
        output.end = str(error)
    except Exception:
        logger.exception("mcp_server_lost")  # a defect of ours; the agent can do without the server
        output.end = "it was lost"
    finally:
        to_session.close()


def _message(line: bytes) -> JSONRPCMessage:
    """Reads a message. Raises ValueError, or RecursionError."""
    if b"\\ud" in line.lower():  # halves of characters, which only pydantic refuses if they stay alone
        return JSONRPCMessage.model_validate_json(line)
    # For many small parts pydantic's parser takes several times as long, in which nothing else happens.
    return JSONRPCMessage.model_validate(json.loads(line.decode()))


def _end(result: CommandResult) -> str:
    if result.exceeded:
        return f"it was ended, because it used {result.exceeded.text}"
    return result.start_error or result.lost or f"it ended with exit code {result.exit_code}"


async def _lines(from_session: MemoryObjectReceiveStream[SessionMessage]) -> AsyncIterator[bytes]:
    with from_session:
        async for message in from_session:
            yield message.message.model_dump_json(by_alias=True, exclude_none=True).encode() + b"\n"
