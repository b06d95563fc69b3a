"""What the attendant has open: the sandbox of each execution, and the commands in it by their names."""

import asyncio
import dataclasses
import hashlib
import json
import shutil
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

from runner_service.executors.attendant.feed import Feed
from runner_service.executors.attendant.spool import STREAMS, DiskFullError, News, Spool
from runner_service.executors.protocol import (
    Command,
    CommandResult,
    Executor,
    Sandbox,
    SandboxError,
    SandboxSpec,
    Stream,
)

RESULT = "result.json"

_NO_ROOM = "the disk of the sandbox is full, and this was ended because there was no room for its output"
_STOPPED = "the sandbox was stopped while the command ran; how far it came is not known"
_HOLD_AFTER_CLOSE = 0.5


class Run:
    """A command that was started by this process, with its output and, in the end, its result.

    With a `feed` it ends when nobody asks about it any more: it cannot be gone on with, so nobody is there to feed it.
    """

    def __init__(self, directory: Path, news: News, feed: Feed | None = None) -> None:
        self.directory = directory
        self.spool = Spool(directory, news, forgets=feed is not None)
        self.feed = feed
        self._news = news
        self.ended = asyncio.Event()
        self.result: dict[str, Any] | None = None
        self.late_from: dict[Stream, int] = {}
        self._task: asyncio.Task[None] | None = None
        self._alarm: asyncio.TimerHandle | None = None
        self._is_abandoned = False

    def start(self, sandbox: Sandbox, text: str, seconds: float) -> None:
        """Starts it. Its time-out is kept here, whoever still follows it."""
        self._task = asyncio.create_task(self._run(sandbox, text, seconds))

    def hear(self, wait: float) -> None:
        """Takes note that somebody asks, who will again once `wait` seconds are over."""
        if self.feed is None or self._task is None or self.ended.is_set():
            return
        if self._alarm:
            self._alarm.cancel()
        self._alarm = asyncio.get_running_loop().call_later(wait + self.feed.patience, self._task.cancel)

    async def end(self) -> None:
        """Ends it with its tree, if it still runs."""
        if self._task:
            self._task.cancel()
            await asyncio.wait([self._task])

    def abandon(self) -> None:
        """Takes note that this process is about to end, which will end the command: that is no result of its own."""
        self._is_abandoned = True

    async def _run(self, sandbox: Sandbox, text: str, seconds: float) -> None:
        result: CommandResult | None = None
        why: dict[str, Any] = {"cancelled": True}
        try:
            stdin = self.feed.pieces() if self.feed else None
            result = await sandbox.run(Command(text, seconds, self.spool, stdin=stdin))
        except SandboxError as error:
            why = {"sandbox_error": str(error)}
        except DiskFullError:
            result = CommandResult(exit_code=1, lost=_NO_ROOM)
        finally:
            if self._is_abandoned:
                result = CommandResult(exit_code=1, lost=_STOPPED)
            self.late_from = dict(self.spool.sizes)
            self.result = {**(dataclasses.asdict(result) if result else why), "sizes": self.late_from}
            if result:  # else something has gone, and nobody will know how far the command came
                self._keep_result()
            self._tell_end()

    def _keep_result(self) -> None:
        # Written at once or not at all: who finds it after a crash can rely on it.
        partial = self.directory / "partial"
        with suppress(OSError):  # the disk is full: only this process will know
            partial.write_text(json.dumps(self.result), encoding="ascii")
            partial.rename(self.directory / RESULT)

    def _tell_end(self) -> None:
        if self._alarm:
            self._alarm.cancel()
        self.ended.set()
        self._news.tell()


class Opening:
    """The sandbox of one execution. Belongs to the attendant's loop."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._parts = AsyncExitStack()
        self.runs: dict[str, Run] = {}
        self.news = News()
        self.notices: list[tuple[str, str]] = []
        self.sandbox: Sandbox
        self.is_closed = False

    async def enter(self, executor: Executor, spec: SandboxSpec) -> None:
        """Opens the sandbox. Raises SandboxError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.sandbox = await self._parts.enter_async_context(executor.open(spec))

    def notify(self, code: str, text: str) -> None:
        """Takes note of what the service's watchers are to know."""
        self.notices.append((code, text))
        self.news.tell()

    def begin(self, name: str, text: str, seconds: float, feed: Feed | None = None) -> Run | None:
        """Returns the command of that name, started now if it never was; None when an earlier attendant had it."""
        if run := self.runs.get(name):
            return run
        directory = self._directory / _file_name(name)
        try:
            directory.mkdir(mode=0o700)
        except FileExistsError:
            return self.find(name)
        run = self.runs[name] = Run(directory, self.news, feed)
        run.start(self.sandbox, text, seconds)
        return run

    def find(self, name: str) -> Run | None:
        """Returns the command of that name; None when it never began, or nobody knows how it ended."""
        if run := self.runs.get(name):
            return run
        directory = self._directory / _file_name(name)
        with suppress(OSError, ValueError):
            result = json.loads((directory / RESULT).read_text(encoding="ascii"))
            run = self.runs[name] = Run(directory, self.news)
            run.result, run.late_from = result, result["sizes"]
            run.ended.set()
            return run
        return None

    async def close(self) -> None:
        """Ends everything; what was written until then can still be taken."""
        if self.is_closed:
            return
        self.is_closed = True
        closing = asyncio.create_task(self._parts.aclose())
        # A last word that nobody takes must not hold up the end for long.
        await asyncio.wait([closing], timeout=_HOLD_AFTER_CLOSE)
        for run in self.runs.values():
            run.spool.let_go()
        await closing
        for run in self.runs.values():
            await run.ended.wait()

    def abandon(self) -> None:
        """Takes note, for every command that runs, that this process is about to end."""
        for run in self.runs.values():
            run.abandon()

    def forget(self) -> None:
        """Removes what was kept of its commands."""
        for run in self.runs.values():
            run.spool.close()
        self.news.tell()
        shutil.rmtree(self._directory, ignore_errors=True)


def _file_name(name: str) -> str:
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def offsets_in(request: dict[str, Any]) -> dict[Stream, int]:
    """Returns how far the service has come in each stream."""
    return {stream: int(request[stream]) for stream in STREAMS}
