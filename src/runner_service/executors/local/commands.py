"""The commands of one sandbox, from their start to the end of what they leave behind."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace
from itertools import count

from runner_service.executors.completion import finished
from runner_service.executors.limit_messages import Excess
from runner_service.executors.local.output_pipe import OutputPipe
from runner_service.executors.local.pipes import Pipes
from runner_service.executors.local.supervisor_client import CANNOT_START, Child, Exit, StartError
from runner_service.executors.local.supervisor_process import SupervisionKeeper
from runner_service.executors.protocol import (
    TIMED_OUT_EXIT_CODE,
    Command,
    CommandResult,
    KilledProcess,
    OutputSink,
    SandboxError,
)

logger = logging.getLogger(__name__)

_LATE_OUTPUT_WITHIN = 1.0
_numbers = count(1)


class Commands:
    """Runs commands with a shell in `root`. Those that run, and what others left behind, end with `close`.

    `notify` is told, by a code and a text, what happened to what a command left behind.
    """

    def __init__(
        self,
        keeper: SupervisionKeeper,
        *,
        shell: str,
        root: str,
        environment: Mapping[str, str],
        notify: Callable[[str, str], None],
    ) -> None:
        self._keeper = keeper
        self._notify = notify
        self._number = next(_numbers)
        self._shell = shell
        self._root = root
        self._environment = environment
        self._loop = asyncio.get_running_loop()
        self._children: set[Child] = set()
        self._late: list[OutputPipe] = []
        self._is_closed = False

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
    ) -> CommandResult:
        """Runs a program at an absolute path, in the same way. Raises SandboxError."""
        if self._is_closed:
            raise SandboxError("the sandbox is closed")
        started = self._loop.time()
        try:
            result = await self._run_with(Pipes(sink, stdin), argv, cwd, timeout)
        except StartError as error:
            return _not_started(error.exit_code, str(error))
        return replace(result, elapsed=self._loop.time() - started)

    async def close(self) -> None:
        """Ends everything, in the order: processes, then the pipes that they held."""
        self._is_closed = True
        try:
            killed = await _ended(self._keeper, self._children)
            if killed:
                names = ",".join(sorted({each.name for each in killed}))
                logger.info("leftovers_ended count=%d names=%s", len(killed), names)
            async with asyncio.timeout(_LATE_OUTPUT_WITHIN):
                await _drained(self._late)
        except TimeoutError:
            logger.warning("late_output_dropped reason=sink_stalled")
        finally:
            await _closed(self._late)

    async def _run_with(self, pipes: Pipes, argv: Sequence[str], cwd: str, seconds: float) -> CommandResult:
        child = self._start(pipes, argv, cwd)
        self._children.add(child)
        child.on_late_excess = self._tell_of
        pipes.watch(child.fail_with)
        try:
            async with pipes.feeding(child.fail_with):
                result = await self._watch(child, seconds)
            await _drained(pipes.outputs)
            child.raise_failure()
        except BaseException:
            await _ended(self._keeper, {child})
            self._children.discard(child)
            await _closed(pipes.outputs)
            raise
        if self._is_closed:
            await _closed(pipes.outputs)
        self._late = [pipe for pipe in (*self._late, *pipes.outputs) if pipe.is_open]
        return result

    def _start(self, pipes: Pipes, argv: Sequence[str], cwd: str) -> Child:
        try:
            return self._keeper.current.start(
                argv,
                execution=self._number,
                cwd=cwd,
                environment=self._environment,
                streams=pipes.far_ends,
            )
        except BaseException:
            pipes.abandon()
            raise
        finally:
            pipes.hand_over()

    async def _watch(self, child: Child, seconds: float) -> CommandResult:
        """Waits for the end of the shell, or makes it come when the time is up."""
        alarm = self._loop.call_later(seconds, self._expire, child)
        try:
            ended = await child.exited
        finally:
            alarm.cancel()
        if child.ending is None:
            if not ended.left_behind:
                self._children.discard(child)
            return _result(ended)
        killed = await child.ending
        self._children.discard(child)
        return _result(ended, killed=killed, excess=child.excess, timed_out=child.excess is None)

    def _expire(self, child: Child) -> None:
        if child.ending is None:
            child.ending = self._keeper.current.begin_end([child])

    def _tell_of(self, excess: Excess) -> None:
        logger.warning("leftovers_exceeded limit=%s allowed=%g", excess.limit, excess.allowed)
        self._notify("LIMIT_EXCEEDED", f"What a command had left running was ended: it used {excess.text}.")


async def _ended(keeper: SupervisionKeeper, children: set[Child]) -> Sequence[KilledProcess]:
    """Ends these children, however often this task is cancelled meanwhile; who cancels waits until it is done."""
    return await finished(keeper.current.begin_end(list(children)))


async def _drained(pipes: Sequence[OutputPipe]) -> None:
    for pipe in pipes:
        await pipe.drained()


async def _closed(pipes: Sequence[OutputPipe]) -> None:
    for pipe in pipes:
        await pipe.close()


def _not_started(exit_code: int, text: str) -> CommandResult:
    return CommandResult(exit_code=exit_code, start_error=text)


def _result(
    ended: Exit, *, killed: Sequence[KilledProcess] = (), excess: Excess | None = None, timed_out: bool = False
) -> CommandResult:
    code = os.waitstatus_to_exitcode(ended.status)
    return CommandResult(
        exit_code=TIMED_OUT_EXIT_CODE if timed_out else code if code >= 0 else 128 - code,
        timed_out=timed_out,
        cpu_time=ended.cpu_time,
        peak_memory=ended.peak_memory,
        spawn_time=ended.spawn_time,
        killed=killed,
        exceeded=excess,
    )
