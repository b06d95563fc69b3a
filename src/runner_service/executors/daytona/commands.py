"""Runs the commands of one execution: each is started once, and one long poll brings the output of all of them."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from typing import Any

from runner_service.executors.completion import run_to_completion
from runner_service.executors.daytona.config import Notify
from runner_service.executors.daytona.output import CommandOutput
from runner_service.executors.daytona.polling import OutputPoller
from runner_service.executors.daytona.session import CLOSE_TIMEOUT_SECONDS, ExecutionSession
from runner_service.executors.daytona.stdin import send_stdin
from runner_service.executors.limit_messages import ExceededLimit
from runner_service.executors.protocol import Command, CommandResult, KilledProcess, SandboxError

logger = logging.getLogger(__name__)

_CLOSE_WAIT_SECONDS = 10.0
_START_WAIT_SECONDS = 1.0
_LOST = "the sandbox was stopped or restarted while this ran; how far it came is not known"


class CommandRunner:
    """Runs the commands of one execution. `poll` runs beside it until `close` has ended.

    `notify` receives the notices of the sandbox's local executor about processes that commands left running.
    """

    def __init__(
        self, session: ExecutionSession, notify: Notify, *, poll_interval: float, stdin_idle_timeout: float
    ) -> None:
        self._session = session
        self._poll_interval = poll_interval
        self._stdin_idle_timeout = stdin_idle_timeout
        self._poller = OutputPoller(session, notify, poll_interval=poll_interval)
        self._running: set[asyncio.Task[Any]] = set()
        self._is_closed = False

    async def run(self, command: Command, *, keep: Callable[[], bool], resumes: bool = False) -> CommandResult:
        """Runs or resumes a command. Cancellation ends it, unless `keep` returns true and it has no stdin.

        Raises:
            SandboxError: the sandbox is lost.
        """
        if self._is_closed:
            raise SandboxError("the sandbox is closed")
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  # a coroutine runs in a task
        self._running.add(task)
        output = CommandOutput(command.name or secrets.token_hex(16), command.sink)
        try:
            with self._poller.tracked(output):
                if not resumes:
                    output.receive(await self._start(output.name, command))
                if command.stdin is None:
                    return await self._read_to_end(output)
                return await self._run_with_stdin(output, command.stdin)
        except BaseException:
            if command.stdin or not keep():
                with suppress(asyncio.CancelledError):  # the original exception is raised in any case
                    await run_to_completion(self._end(output.name))
            raise
        finally:
            self._running.discard(task)

    async def poll(self) -> None:
        """Polls for output, until cancelled."""
        await self._poller.run()

    async def close(self) -> None:
        """Ends all commands and forwards their last output. Raises SandboxError."""
        self._is_closed = True
        await self._session.request("close", response_timeout=CLOSE_TIMEOUT_SECONDS)
        if self._running:
            await asyncio.wait(self._running, timeout=_CLOSE_WAIT_SECONDS)
        await self._poller.drain()
        await self._session.request("remove", response_timeout=CLOSE_TIMEOUT_SECONDS)

    async def _start(self, name: str, command: Command) -> dict[str, Any]:
        about: dict[str, Any] = {"name": name, "text": command.text, "timeout": command.timeout}
        if command.stdin is None:
            response = await self._session.request("run", wait=min(_START_WAIT_SECONDS, self._poll_interval), **about)
        else:
            about["idle_timeout"] = self._stdin_idle_timeout
            response = await self._session.request("run_with_stdin", **about)
        return dict(response["commands"][name])

    async def _run_with_stdin(self, output: CommandOutput, stdin: AsyncIterator[bytes]) -> CommandResult:
        reading = asyncio.create_task(self._read_to_end(output))
        sending = asyncio.create_task(
            send_stdin(self._session, output.name, stdin, keepalive_interval=self._poll_interval)
        )
        try:
            await asyncio.wait([reading, sending], return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                sending.result()  # raises what the input did
            return await reading
        finally:
            for task in (reading, sending):
                task.cancel()
            await asyncio.wait([reading, sending])

    async def _read_to_end(self, output: CommandOutput) -> CommandResult:
        while True:
            await output.deliver()
            if output.is_unknown:
                return CommandResult(exit_code=1, lost=_LOST)
            if output.result and output.offsets == output.result["sizes"]:
                return _result(output.result)
            await self._poller.wait_for_more(output)

    async def _end(self, name: str) -> None:
        try:
            await self._session.request("end", name=name, response_timeout=CLOSE_TIMEOUT_SECONDS)
        except SandboxError as error:
            logger.warning("command_not_ended reason=%s", error)


def _result(fields: dict[str, Any]) -> CommandResult:
    if "sandbox_error" in fields:
        raise SandboxError(str(fields["sandbox_error"]))
    if "cancelled" in fields:
        raise SandboxError("the command was ended from inside of the sandbox")
    killed = tuple(KilledProcess(int(each["pid"]), str(each["name"])) for each in fields["killed"])
    exceeded = fields["exceeded"]
    rest = {name: value for name, value in fields.items() if name not in {"sizes", "killed", "exceeded"}}
    return CommandResult(**rest, killed=killed, exceeded=ExceededLimit(**exceeded) if exceeded else None)
