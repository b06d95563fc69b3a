"""Stdio transport for MCP servers that run as commands of the sandbox."""

import asyncio
import logging
import shlex
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

import anyio
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage

from runner_service.agent.mcp.messages import MAX_MESSAGE_BYTES, MessageLimitError, MessageParser
from runner_service.agent.mcp.placeholders import PLACEHOLDER
from runner_service.executors.protocol import Command, CommandResult, Sandbox, SandboxError, Stream
from runner_service.redaction import Redactor
from runner_service.v1 import agent_runner_pb2 as runner_pb2

logger = logging.getLogger(__name__)

_UNLIMITED_SECONDS = 30 * 24 * 3600.0
_MAX_STDERR_BYTES = 2000
_STOP_TIMEOUT_SECONDS = 0.5


class Streams(NamedTuple):
    """The streams of an MCP session."""

    read: MemoryObjectReceiveStream[SessionMessage | Exception]
    write: MemoryObjectSendStream[SessionMessage]


class ServerOutput:
    """Forwards stdout to the session, and keeps the tail of stderr.

    `end` says how the server ended; empty while it runs.
    """

    def __init__(self, session: MemoryObjectSendStream[SessionMessage | Exception], redactor: Redactor) -> None:
        self._session = session
        self._parser = MessageParser()
        self._clean = redactor.stream()  # before cutting: part of a secret would not match
        self._rest = bytearray()
        self._stderr = b""
        self.end = ""

    @property
    def stderr(self) -> str:
        """The tail of stderr, redacted."""
        return self._stderr.decode("utf-8", "replace").strip()

    async def write(self, stream: Stream, data: bytes) -> None:
        """Accepts the next bytes."""
        if stream == "stderr":
            self._stderr = (self._stderr + self._clean.feed(data))[-_MAX_STDERR_BYTES:]
            return
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._add(line)
            whole, self._rest = self._rest, bytearray()
            try:
                # None is no message: stray output on stdout.
                if message := await self._parser.parse(bytes(whole)):
                    await self._session.send(SessionMessage(message))
            except MessageLimitError as fault:
                raise SandboxError(f"it {fault}") from None
            except (anyio.ClosedResourceError, anyio.BrokenResourceError):
                return
        self._add(rest)

    def _add(self, data: bytes) -> None:
        self._rest += data
        if len(self._rest) > MAX_MESSAGE_BYTES:
            raise SandboxError(f"it sent a message of more than {MAX_MESSAGE_BYTES:,} bytes")


@asynccontextmanager
async def stdio_server(
    sandbox: Sandbox, stdio: runner_pb2.StdioServer, outputs: list[ServerOutput], redactor: Redactor
) -> AsyncIterator[Streams]:
    """Runs a server until the context ends. Its `ServerOutput` is appended to `outputs`."""
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
        # Closing `to_server` closed its stdin, which asks it to exit.
        await asyncio.wait([running], timeout=_STOP_TIMEOUT_SECONDS)
        running.cancel()
        await asyncio.wait([running])
        from_session.close()


def command_text(stdio: runner_pb2.StdioServer) -> str:
    """Returns the shell command. The shell expands variables, so that the text contains no secret."""
    parts = [f"cd {shlex.quote(stdio.working_directory)}"] if stdio.working_directory else []
    parts += _exports(stdio.environment)
    program, *arguments = (shlex.quote(each) for each in (stdio.command, *stdio.args))
    missing = shlex.quote(f"it needs {stdio.command}, which is not installed where the agent's commands run")
    parts.append(f"{{ command -v {program} > /dev/null || {{ echo {missing} >&2; exit 127; }}; }}")
    return " && ".join([*parts, " ".join(["exec", program, *arguments])])


def _exports(environment: Mapping[str, str]) -> list[str]:
    """One `export` for all, so that placeholders refer to the request's variables, not to each other."""
    words = [f"{name}={_expanded(value)}" for name, value in environment.items()]
    return [f"export {' '.join(words)}"] if words else []


def _expanded(value: str) -> str:
    """Quotes a value for the shell, keeping each `${NAME}` expandable."""
    parts = PLACEHOLDER.split(value)
    words = [f'"${{{part}}}"' if index % 2 else shlex.quote(part) for index, part in enumerate(parts)]
    return "".join(words)


async def _run(
    sandbox: Sandbox,
    command: Command,
    to_session: MemoryObjectSendStream[SessionMessage | Exception],
    output: ServerOutput,
) -> None:
    """Runs the server, then closes the session's stream."""
    try:
        output.end = _end(await sandbox.run(command))
    except SandboxError as error:
        output.end = str(error)
    except Exception:
        logger.exception("mcp_server_lost")  # a defect; the agent works without the server
        output.end = "it was lost"
    finally:
        to_session.close()


def _end(result: CommandResult) -> str:
    if result.exceeded:
        return f"it was ended, because it used {result.exceeded.text}"
    return result.start_error or result.lost or f"it ended with exit code {result.exit_code}"


async def _lines(from_session: MemoryObjectReceiveStream[SessionMessage]) -> AsyncIterator[bytes]:
    with from_session:
        async for message in from_session:
            yield message.message.model_dump_json(by_alias=True, exclude_none=True).encode() + b"\n"
