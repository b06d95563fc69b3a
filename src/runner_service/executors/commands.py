"""The commands of one sandbox, from their start to the end of what they leave behind."""

import asyncio
import logging
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from runner_service.executors import (
    TIMED_OUT_EXIT_CODE,
    Command,
    CommandResult,
    KilledProcess,
    OutputSink,
    SandboxError,
)
from runner_service.executors.keeper import SupervisionKeeper
from runner_service.executors.output import OutputPipe
from runner_service.executors.supervision import Child, Exit, StartError

logger = logging.getLogger(__name__)

_CANNOT_START = 126
_LATE_OUTPUT_WITHIN = 1.0


class Commands:
    """Runs commands with a shell in `root`. Those that run, and what others left behind, end with `close`."""

    def __init__(self, keeper: SupervisionKeeper, *, shell: str, root: str, environment: Mapping[str, str]) -> None:
        self._keeper = keeper
        self._shell = shell
        self._root = root
        self._environment = environment
        self._loop = asyncio.get_running_loop()
        self._children: set[Child] = set()
        self._late: set[asyncio.Task[None]] = set()
        self._is_closed = False

    async def run(self, command: Command) -> CommandResult:
        """Runs a command, as the Protocol promises."""
        if "\0" in command.text:
            return _not_started(_CANNOT_START, "a command cannot contain a NUL character; write it to a file first")
        argv = [self._shell, "-c", command.text]
        return await self.run_program(argv, cwd=self._root, timeout=command.timeout, sink=command.sink)

    async def run_program(
        self,
        argv: Sequence[str],
        *,
        cwd: str,
        timeout: float,  # noqa: ASYNC109  # ends a tree of processes, not this coroutine
        sink: OutputSink,
    ) -> CommandResult:
        """Runs a program at an absolute path, in the same way. Raises SandboxError."""
        if self._is_closed:
            raise SandboxError("the sandbox is closed")
        started = self._loop.time()
        try:
            pipes = _open_pipes(sink)
            result = await self._run_with(pipes, argv, cwd, timeout)
        except StartError as error:
            return _not_started(error.exit_code, str(error))
        return replace(result, elapsed=self._loop.time() - started)

    async def close(self) -> None:
        """Ends everything, in the order: processes, then the pipes that they held."""
        self._is_closed = True
        killed = await _ended(self._keeper, self._children)
        if killed:
            logger.info(
                "leftovers_ended count=%d names=%s", len(killed), ",".join(sorted({each.name for each in killed}))
            )
        if self._late:
            await asyncio.wait(self._late, timeout=_LATE_OUTPUT_WITHIN)
        await _cancelled(self._late)

    async def _run_with(
        self, pipes: Sequence[OutputPipe], argv: Sequence[str], cwd: str, seconds: float
    ) -> CommandResult:
        child = self._start(pipes, argv, cwd)
        self._children.add(child)
        pumps = [self._loop.create_task(pipe.pump()) for pipe in pipes]
        for pump in pumps:
            pump.add_done_callback(child.fail_with)
        try:
            result = await self._watch(child, seconds)
            await _drained(pipes, pumps)
        except BaseException:
            await _ended(self._keeper, {child})
            self._children.discard(child)
            await _cancelled(pumps)
            raise
        self._keep_late(pumps)
        return result

    def _start(self, pipes: Sequence[OutputPipe], argv: Sequence[str], cwd: str) -> Child:
        stdout, stderr = (pipe.writer for pipe in pipes)
        try:
            return self._keeper.current.start(
                argv, cwd=cwd, environment=self._environment, stdout=stdout, stderr=stderr
            )
        except BaseException:
            for pipe in pipes:
                pipe.close_reader()
            raise
        finally:
            for pipe in pipes:
                pipe.close_writer()

    async def _watch(self, child: Child, seconds: float) -> CommandResult:
        """Waits for the end of the shell, or makes it come when the time is up."""
        await asyncio.wait([child.exited], timeout=seconds)
        if child.exited.done():
            ended = child.exited.result()
            if not ended.left_behind:
                self._children.discard(child)
            return _result(ended)
        killed = await self._keeper.current.begin_end([child])
        self._children.discard(child)
        return _result(await child.exited, killed=killed, timed_out=True)

    def _keep_late(self, pumps: Sequence[asyncio.Task[None]]) -> None:
        for pump in pumps:
            if not pump.done():
                self._late.add(pump)
                pump.add_done_callback(self._late.discard)


async def _ended(keeper: SupervisionKeeper, children: set[Child]) -> Sequence[KilledProcess]:
    """Ends these children, however often this task is cancelled meanwhile; who cancels waits until it is done."""
    ending = keeper.current.begin_end(list(children))
    is_cancelled = False
    while not ending.done():
        try:
            await asyncio.wait([ending])
        except asyncio.CancelledError:
            is_cancelled = True
    if is_cancelled:
        raise asyncio.CancelledError
    return ending.result()


async def _drained(pipes: Sequence[OutputPipe], pumps: Sequence[asyncio.Task[None]]) -> None:
    for pipe in pipes:
        await pipe.drained()
    for pump in pumps:
        if pump.done():
            pump.result()


async def _cancelled(pumps: set[asyncio.Task[None]] | Sequence[asyncio.Task[None]]) -> None:
    for pump in pumps:
        pump.cancel()
    if pumps:
        await asyncio.wait(list(pumps))


def _open_pipes(sink: OutputSink) -> Sequence[OutputPipe]:
    pipes: list[OutputPipe] = []
    try:
        pipes.append(OutputPipe("stdout", sink))
        pipes.append(OutputPipe("stderr", sink))
    except OSError as error:
        for pipe in pipes:
            pipe.close_writer()
            pipe.close_reader()
        raise StartError(_CANNOT_START, f"no pipe for the output: {error.strerror}") from error
    return pipes


def _not_started(exit_code: int, text: str) -> CommandResult:
    return CommandResult(exit_code=exit_code, start_error=text)


def _result(ended: Exit, *, killed: Sequence[KilledProcess] = (), timed_out: bool = False) -> CommandResult:
    code = os.waitstatus_to_exitcode(ended.status)
    return CommandResult(
        exit_code=TIMED_OUT_EXIT_CODE if timed_out else code if code >= 0 else 128 - code,
        timed_out=timed_out,
        cpu_time=ended.cpu_time,
        peak_memory=ended.peak_memory,
        killed=killed,
    )
