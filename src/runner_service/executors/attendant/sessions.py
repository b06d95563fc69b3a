"""Sessions of the attendant: the sandbox of one execution and its commands by name."""

import asyncio
import dataclasses
import hashlib
import json
import shutil
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from runner_service.executors.attendant.changes import SessionChanges
from runner_service.executors.attendant.output_buffer import STREAMS, DiskFullError, Notifier, Offsets, OutputBuffer
from runner_service.executors.attendant.stdin_buffer import StdinBuffer
from runner_service.executors.local.tracking import LocalTracking
from runner_service.executors.protocol import (
    Command,
    CommandResult,
    Executor,
    Sandbox,
    SandboxError,
    SandboxSpec,
)

RESULT = "result.json"

_NO_ROOM = "the disk of the sandbox is full, and this was ended because there was no room for its output"
_STOPPED = "the sandbox was stopped while the command ran; how far it came is not known"
_FINAL_OUTPUT_TIMEOUT_SECONDS = 0.5


class CommandRun:
    """A command with its output and, once ended, its result.

    A command with `stdin` ends when no request about it arrives any more: it cannot be resumed.
    """

    def __init__(self, directory: Path, notifier: Notifier, stdin: StdinBuffer | None = None) -> None:
        self.directory = directory
        self.output = OutputBuffer(directory, notifier, discard_acknowledged=stdin is not None)
        self.stdin = stdin
        self._notifier = notifier
        self.ended = asyncio.Event()
        self.result: dict[str, Any] | None = None
        self.late_from: Offsets = {}
        self._task: asyncio.Task[None] | None = None
        self._idle_timer: asyncio.TimerHandle | None = None
        self._is_abandoned = False

    def start(self, sandbox: Sandbox, text: str, seconds: float) -> None:
        """Starts the command. Its time limit is enforced here, with or without readers."""
        self._task = asyncio.create_task(self._run(sandbox, text, seconds))

    def reset_idle_timer(self, wait: float) -> None:
        """Restarts the idle timer; the next request is due after `wait` seconds."""
        if self.stdin is None or self._task is None or self.ended.is_set():
            return
        if self._idle_timer:
            self._idle_timer.cancel()
        self._idle_timer = asyncio.get_running_loop().call_later(wait + self.stdin.idle_timeout, self._task.cancel)

    async def end(self) -> None:
        """Ends the command and its process tree if it still runs."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])

    def abandon(self) -> None:
        """Records that the attendant is stopping, so that the end of the command is not its own result."""
        self._is_abandoned = True

    async def _run(self, sandbox: Sandbox, text: str, seconds: float) -> None:
        result: CommandResult | None = None
        why: dict[str, Any] = {"cancelled": True}
        try:
            stdin = self.stdin.chunks() if self.stdin else None
            result = await sandbox.run(Command(text, seconds, self.output, stdin=stdin))
        except SandboxError as error:
            why = {"sandbox_error": str(error)}
        except DiskFullError:
            result = CommandResult(exit_code=1, lost=_NO_ROOM)
        finally:
            if self._is_abandoned:
                result = CommandResult(exit_code=1, lost=_STOPPED)
            self.late_from = dict(self.output.sizes)
            self.result = {**(dataclasses.asdict(result) if result else why), "sizes": self.late_from}
            if result:  # otherwise nobody knows how far the command came
                self._keep_result()
            self._notify_end()

    def _keep_result(self) -> None:
        # Atomic, so that what is found after a crash is complete.
        partial = self.directory / "partial"
        with suppress(OSError):  # disk full: only this process knows the result
            partial.write_text(json.dumps(self.result), encoding="ascii")
            partial.rename(self.directory / RESULT)

    def _notify_end(self) -> None:
        if self._idle_timer:
            self._idle_timer.cancel()
        self.ended.set()
        self._notifier.notify()


class Session:
    """The sandbox of one execution. Not thread-safe."""

    def __init__(self, directory: Path, transfers: Path) -> None:
        self._directory = directory
        self._transfers = transfers
        self._parts = AsyncExitStack()
        self.runs: dict[str, CommandRun] = {}
        self.notifier = Notifier()
        self.notices: list[tuple[str, str]] = []
        self.sandbox: Sandbox
        self.changes: SessionChanges
        self.is_closed = False
        self._latest_poll = ("", 0)

    async def enter(self, executor: Executor, spec: SandboxSpec) -> None:
        """Opens the sandbox. Raises SandboxError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.sandbox = await self._parts.enter_async_context(executor.open(spec))
        if not isinstance(tracking := self.sandbox.tracking, LocalTracking):
            raise SandboxError("the attendant serves no local sandbox")
        self.changes = SessionChanges(tracking, self._transfers, self._directory.name)

    def notify(self, code: str, text: str) -> None:
        """Queues a notice for the service."""
        self.notices.append((code, text))
        self.notifier.notify()

    def begin_poll(self, poll: tuple[str, int]) -> None:
        """Lets a poll, known by its client and number, take the place of the one before."""
        client, number = self._latest_poll
        if poll[0] != client or poll[1] > number:
            self._latest_poll = poll
            self.notifier.notify()

    def is_superseded(self, poll: tuple[str, int]) -> bool:
        """Whether a newer poll of the same client, or any of another client, has come."""
        return poll != self._latest_poll

    def start_command(
        self, name: str, text: str, seconds: float, stdin: StdinBuffer | None = None
    ) -> CommandRun | None:
        """Returns the named command, started if it is new; None if an earlier attendant had it."""
        if run := self.runs.get(name):
            return run
        directory = self._directory / _file_name(name)
        try:
            directory.mkdir(mode=0o700)
        except FileExistsError:
            return self.find_command(name)
        run = self.runs[name] = CommandRun(directory, self.notifier, stdin)
        run.start(self.sandbox, text, seconds)
        return run

    def find_command(self, name: str) -> CommandRun | None:
        """Returns the named command; None if it was never started or its result is unknown."""
        if run := self.runs.get(name):
            return run
        directory = self._directory / _file_name(name)
        with suppress(OSError, ValueError):
            result = json.loads((directory / RESULT).read_text(encoding="ascii"))
            run = self.runs[name] = CommandRun(directory, self.notifier)
            run.result, run.late_from = result, result["sizes"]
            run.ended.set()
            return run
        return None

    async def close(self) -> None:
        """Ends all commands; their output can still be read."""
        if self.is_closed:
            return
        self.is_closed = True
        closing = asyncio.create_task(self._parts.aclose())
        # Unread output must not delay the end for long.
        await asyncio.wait([closing], timeout=_FINAL_OUTPUT_TIMEOUT_SECONDS)
        for run in self.runs.values():
            run.output.acknowledge_all()
        await closing
        for run in self.runs.values():
            await run.ended.wait()

    def abandon(self) -> None:
        """Records for each command that the attendant is stopping."""
        for run in self.runs.values():
            run.abandon()

    def remove(self) -> None:
        """Removes the files of its commands."""
        for run in self.runs.values():
            run.output.close()
        self.notifier.notify()
        self.changes.forget()
        shutil.rmtree(self._directory, ignore_errors=True)


def _file_name(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def offsets_in(request: dict[str, Any]) -> Offsets:
    """Returns the offsets that the service has read to."""
    return {stream: int(request[stream]) for stream in STREAMS}
