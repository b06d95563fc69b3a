"""Runs the commands of one sandbox, and ends the processes that they leave behind."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from itertools import count
from typing import Protocol

from runner_service.executors.completion import run_to_completion
from runner_service.executors.limit_messages import ExceededLimit
from runner_service.executors.local.output_pipe import OutputPipe
from runner_service.executors.local.pipes import Pipes
from runner_service.executors.local.supervisor_client import (
    CANNOT_START,
    Child,
    Exit,
    StartError,
    SupervisorClient,
)
from runner_service.executors.protocol import (
    TIMED_OUT_EXIT_CODE,
    Command,
    CommandResult,
    KilledProcess,
    OutputSink,
    SandboxError,
)

logger = logging.getLogger(__name__)

_LATE_OUTPUT_TIMEOUT_SECONDS = 1.0
_numbers = count(1)


class SupervisorSource(Protocol):
    """Gives the supervisor that starts the commands of a sandbox."""

    @property
    def client(self) -> SupervisorClient:
        """The current supervisor, after `started` has returned once."""

    async def started(self, execution: int) -> SupervisorClient:
        """Waits until commands of an execution, by its number, can be started. Raises SandboxError."""

    @property
    def temporary_directory(self) -> str:
        """Where programs of a confined execution can write, as they see it; empty when it is not confined."""

    @property
    def is_restricted(self) -> bool:
        """Whether commands are started from a restricted thread."""

    async def terminate(self, children: Sequence[Child]) -> Sequence[KilledProcess]:
        """Ends children and all their descendants, and returns what had to be killed."""


class Commands:
    """Runs commands with a shell in `root`. `close` ends those that run and all leftover processes.

    `notify` is called with a code and a text when a leftover process exceeds a limit.
    """

    def __init__(
        self,
        supervisor: SupervisorSource,
        *,
        shell: str,
        root: str,
        environment: Mapping[str, str],
        notify: Callable[[str, str], None],
    ) -> None:
        self._supervisor = supervisor
        self._notify = notify
        self._execution_number = next(_numbers)
        self._shell = shell
        self._root = root
        self._environment = environment
        self._loop = asyncio.get_running_loop()
        self._children: set[Child] = set()
        self._leftover_pipes: list[OutputPipe] = []
        self._is_closed = False

    @property
    def is_quiet(self) -> bool:
        """Whether nothing runs, left behind or not."""
        return not self._children

    async def run(self, command: Command) -> CommandResult:
        """Runs a command, as the Protocol promises."""
        if "\0" in command.text:
            return _not_started(CANNOT_START, "a command cannot contain a NUL character; write it to a file first")
        argv = [self._shell, "-c", command.text]
        return await self.run_program(
            argv, cwd=self._root, timeout=command.timeout, sink=command.sink, stdin=command.stdin
        )

    async def run_program(
        self,
        argv: Sequence[str],
        *,
        cwd: str,
        timeout: float,  # noqa: ASYNC109  # ends a tree of processes, not this coroutine
        sink: OutputSink,
        stdin: AsyncIterator[bytes] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> CommandResult:
        """Runs a program at an absolute path, in the same way. Raises SandboxError.

        Without `environment` it has that of commands.
        """
        if self._is_closed:
            raise SandboxError("the sandbox is closed")
        await self._supervisor.started(self._execution_number)
        try:
            return await self._run_with(Pipes(sink, stdin), argv, cwd, timeout, environment or self._environment)
        except StartError as error:
            return _not_started(error.exit_code, str(error))

    async def close(self) -> None:
        """Ends the processes, then closes their pipes."""
        self._is_closed = True
        try:
            killed = await _terminate(self._supervisor, self._children)
            if killed:
                names = ",".join(sorted({each.name for each in killed}))
                logger.info("leftovers_ended count=%d names=%s", len(killed), names)
            if self._leftover_pipes:
                async with asyncio.timeout(_LATE_OUTPUT_TIMEOUT_SECONDS):
                    await _drain(self._leftover_pipes)
        except TimeoutError:
            logger.warning("late_output_dropped reason=sink_stalled")
        finally:
            await _close_pipes(self._leftover_pipes)

    async def _run_with(
        self, pipes: Pipes, argv: Sequence[str], cwd: str, seconds: float, environment: Mapping[str, str]
    ) -> CommandResult:
        began = self._loop.time()
        child = self._start(pipes, argv, cwd, environment)
        self._children.add(child)
        child.on_leftover_limit = self._report_leftover_limit
        pipes.watch(child.fail_with)
        try:
            async with pipes.feeding(child.fail_with):
                ended, killed = await self._watch(child, seconds)
            await _drain(pipes.outputs)
            child.raise_failure()
        except BaseException:
            await _terminate(self._supervisor, {child})
            self._children.discard(child)
            await _close_pipes(pipes.outputs)
            raise
        if self._is_closed:
            await _close_pipes(pipes.outputs)
        self._leftover_pipes = [pipe for pipe in (*self._leftover_pipes, *pipes.outputs) if pipe.is_open]
        return _result(child, ended, killed, self._loop.time() - began)

    def _start(self, pipes: Pipes, argv: Sequence[str], cwd: str, environment: Mapping[str, str]) -> Child:
        try:
            return self._supervisor.client.start(
                argv,
                execution=self._execution_number,
                cwd=cwd,
                environment=environment,
                streams=pipes.command_ends,
                confined=self._supervisor.is_restricted,
            )
        except BaseException:
            pipes.close_service_ends()
            raise
        finally:
            pipes.close_command_ends()

    async def _watch(self, child: Child, seconds: float) -> tuple[Exit, Sequence[KilledProcess]]:
        """Waits for the shell to exit, or ends it when its time is up; returns what had to be killed, too."""
        timer = self._loop.call_later(seconds, self._expire, child)
        try:
            ended = await child.exited
        finally:
            timer.cancel()
        if child.termination is None:
            if not ended.left_behind:
                self._children.discard(child)
            return ended, ()
        killed = await child.termination
        self._children.discard(child)
        return ended, killed

    def _expire(self, child: Child) -> None:
        if child.termination is None:
            child.termination = self._supervisor.client.request_termination([child])

    def _report_leftover_limit(self, exceeded: ExceededLimit) -> None:
        logger.warning("leftovers_exceeded limit=%s allowed=%g", exceeded.limit, exceeded.allowed)
        self._notify("LIMIT_EXCEEDED", f"What a command had left running was ended: it used {exceeded.text}.")


async def _terminate(supervisor: SupervisorSource, children: set[Child]) -> Sequence[KilledProcess]:
    """Ends these children; a cancellation meanwhile is deferred until they are gone."""
    if not children:
        return []
    return await run_to_completion(supervisor.terminate(list(children)))


async def _drain(pipes: Sequence[OutputPipe]) -> None:
    for pipe in pipes:
        await pipe.drain()


async def _close_pipes(pipes: Sequence[OutputPipe]) -> None:
    for pipe in pipes:
        await pipe.close()


def _not_started(exit_code: int, text: str) -> CommandResult:
    return CommandResult(exit_code=exit_code, start_error=text)


def _result(child: Child, ended: Exit, killed: Sequence[KilledProcess], elapsed: float) -> CommandResult:
    code = os.waitstatus_to_exitcode(ended.status)
    timed_out = child.termination is not None and child.exceeded is None
    return CommandResult(
        exit_code=TIMED_OUT_EXIT_CODE if timed_out else code if code >= 0 else 128 - code,
        timed_out=timed_out,
        elapsed=elapsed,
        cpu_time=ended.cpu_time,
        peak_memory=ended.peak_memory,
        spawn_time=ended.spawn_time,
        left_processes=ended.left_behind,
        killed=killed,
        exceeded=child.exceeded,
    )
