"""Commands in a sandbox: started once, their output read by offset, late output included."""

import asyncio
import base64
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from runner_service.executors.completion import run_to_completion
from runner_service.executors.daytona.config import Notify
from runner_service.executors.daytona.session import CLOSE_TIMEOUT_SECONDS, ExecutionSession
from runner_service.executors.daytona.stdin import send_stdin
from runner_service.executors.limit_messages import ExceededLimit
from runner_service.executors.protocol import Command, CommandResult, KilledProcess, OutputSink, SandboxError, Stream

logger = logging.getLogger(__name__)

_MAX_CHUNK_CHARS = 256 * 1024  # of base64
_CLOSE_WAIT_SECONDS = 10.0
_LOST = "the sandbox was stopped or restarted while this ran; how far it came is not known"
_STREAMS: tuple[Stream, Stream] = ("stdout", "stderr")


@dataclass
class OutputCursor:
    """The sink of a command and the offsets delivered to it."""

    sink: OutputSink
    offsets: dict[Stream, int] = field(default_factory=lambda: dict.fromkeys(_STREAMS, 0))

    async def deliver(self, response: dict[str, Any]) -> None:
        """Writes the output of a response to the sink, yielding to the event loop between chunks."""
        for stream in _STREAMS:
            for start in range(0, len(response[stream]), _MAX_CHUNK_CHARS):
                piece = base64.b64decode(response[stream][start : start + _MAX_CHUNK_CHARS])
                await self.sink.write(stream, piece)
                self.offsets[stream] += len(piece)
                await asyncio.sleep(0)


class CommandRunner:
    """Runs the commands of one execution. `forward_late_output` runs beside it; `close` comes last.

    `notify` receives the notices of the sandbox's local executor about processes that commands left running.
    """

    def __init__(
        self, session: ExecutionSession, notify: Notify, *, poll_interval: float, stdin_idle_timeout: float
    ) -> None:
        self._session = session
        self._notify = notify
        self._notices = 0
        self._poll_interval = poll_interval
        self._stdin_idle_timeout = stdin_idle_timeout
        self._late: dict[str, OutputCursor] = {}
        self._running: set[asyncio.Task[Any]] = set()
        self._any_ended = asyncio.Event()
        self._is_closed = False

    async def run(self, command: Command, *, keep: Callable[[], bool], resumes: bool = False) -> CommandResult:
        """Runs or resumes a command. Cancellation ends it, unless `keep` returns true and it has no stdin.

        Raises:
            SandboxError: the sandbox is lost.
        """
        if self._is_closed:
            raise SandboxError("the sandbox is closed")
        name = command.name or secrets.token_hex(16)
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # a coroutine runs in a task
        self._running.add(task)
        cursor = OutputCursor(command.sink)
        try:
            response = await self._request(name, cursor, None if resumes else command)
            if command.stdin is None:
                return await self._read_to_end(name, cursor, response)
            return await self._run_with_stdin(name, cursor, response, command.stdin)
        except BaseException:
            if command.stdin or not keep():
                with suppress(asyncio.CancelledError):  # the original exception is raised in any case
                    await run_to_completion(self._end(name))
            raise
        finally:
            self._running.discard(task)

    async def forward_late_output(self) -> None:
        """Forwards, until cancelled, what children of ended commands still write."""
        await self._any_ended.wait()
        while True:
            try:
                await self._read_late_output(self._poll_interval)
            except SandboxError as error:
                logger.warning("late_output_failed reason=%s", error)
                await asyncio.sleep(self._poll_interval)

    async def close(self) -> None:
        """Ends all commands and forwards their last output. Raises SandboxError."""
        self._is_closed = True
        await self._session.request("close", response_timeout=CLOSE_TIMEOUT_SECONDS)
        if self._running:
            await asyncio.wait(self._running, timeout=_CLOSE_WAIT_SECONDS)
        while self._late and await self._read_late_output(0.0):
            pass
        await self._session.request("forget", response_timeout=CLOSE_TIMEOUT_SECONDS)

    async def _run_with_stdin(
        self, name: str, cursor: OutputCursor, response: dict[str, Any], stdin: AsyncIterator[bytes]
    ) -> CommandResult:
        reading = asyncio.create_task(self._read_to_end(name, cursor, response))
        sending = asyncio.create_task(send_stdin(self._session, name, stdin, keepalive_interval=self._poll_interval))
        try:
            await asyncio.wait([reading, sending], return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                sending.result()  # raises what the input did
            return await reading
        finally:
            for task in (reading, sending):
                task.cancel()
            await asyncio.wait([reading, sending])

    async def _read_to_end(self, name: str, cursor: OutputCursor, response: dict[str, Any]) -> CommandResult:
        while True:
            if "unknown_command" in response:
                return CommandResult(exit_code=1, lost=_LOST)
            await cursor.deliver(response)
            result = response["result"]
            if result and cursor.offsets == result["sizes"]:
                self._late[name] = cursor
                self._any_ended.set()
                return _result(result)
            response = await self._request(name, cursor, None)

    async def _request(self, name: str, cursor: OutputCursor, start: Command | None) -> dict[str, Any]:
        about: dict[str, Any] = {"name": name, "stdout": cursor.offsets["stdout"], "stderr": cursor.offsets["stderr"]}
        if start is None:
            return await self._session.request("follow", wait=self._poll_interval, **about)
        about |= {"text": start.text, "timeout": start.timeout}
        if start.stdin is None:
            return await self._session.request("run", wait=self._poll_interval, **about)
        return await self._session.request("run_fed", forsaken_after=self._stdin_idle_timeout, **about)

    async def _end(self, name: str) -> None:
        try:
            await self._session.request("end", name=name, response_timeout=CLOSE_TIMEOUT_SECONDS)
        except SandboxError as error:
            logger.warning("command_not_ended reason=%s", error)

    async def _read_late_output(self, wait: float) -> bool:
        """Reads late output, waiting up to `wait` seconds; returns whether there was any."""
        offsets = {name: cursor.offsets for name, cursor in self._late.items()}
        response = await self._session.request("late", wait=wait, offsets=offsets, notices=self._notices)
        for code, text in response.get("notices", ()):
            self._notices += 1
            self._notify(code, text)
        late = response["late"]
        for name, response in late.items():
            if cursor := self._late.get(name):
                await self._deliver_late(name, cursor, response)
        return bool(late)

    async def _deliver_late(self, name: str, cursor: OutputCursor, response: dict[str, Any]) -> None:
        if any(response[f"{stream}_at"] != cursor.offsets[stream] for stream in _STREAMS):
            return  # requested before an earlier response was delivered
        try:
            await cursor.deliver(response)
        except Exception:  # noqa: BLE001  # a broken sink of an ended command ends nothing else
            logger.warning("late_output_dropped reason=sink_failed")
            del self._late[name]


def _result(fields: dict[str, Any]) -> CommandResult:
    if "sandbox_error" in fields:
        raise SandboxError(str(fields["sandbox_error"]))
    if "cancelled" in fields:
        raise SandboxError("the command was ended from inside of the sandbox")
    killed = tuple(KilledProcess(int(each["pid"]), str(each["name"])) for each in fields["killed"])
    excess = fields["exceeded"]
    handled = {name: value for name, value in fields.items() if name not in {"sizes", "killed", "exceeded"}}
    return CommandResult(**handled, killed=killed, exceeded=ExceededLimit(**excess) if excess else None)
