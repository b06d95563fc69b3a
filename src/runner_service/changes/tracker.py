"""Finds and records what the calls of one execution change, while its agent goes on."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

from runner_service.changes.contents import Contents
from runner_service.changes.ledger import Ledger
from runner_service.changes.messages import file_change
from runner_service.changes.net import net_changes
from runner_service.changes.records import ChangeSet, RecordedChange
from runner_service.changes.workspaces import PastWorker, Workspaces
from runner_service.events.stream import EventStream
from runner_service.executors.completion import run_to_completion
from runner_service.executors.protocol import SandboxError
from runner_service.executors.tracking import FileState, FoundChange, Tracking, TrackingError
from runner_service.storage.event_log import LogError, NewChangeSet
from runner_service.v1 import execution_event_pb2 as event_pb2

logger = logging.getLogger(__name__)

_BEGIN_DELAY_SECONDS = 0.25
_BEGIN_TIMEOUT_SECONDS = 5.0
_LAST_SCAN_TIMEOUT_SECONDS = 20.0
_INTERRUPTED_SCAN_TIMEOUT_SECONDS = 2.0
_MAX_LISTED = 100
_CLOCK_TICK_SECONDS = 0.02
"""The time of a file may be that much earlier than that of the clock."""


class Window(NamedTuple):
    """The time since the last scan in which calls ran; `is_quiet`: nothing of the execution ran before it."""

    start: float
    is_quiet: bool


class ChangeTracker:
    """Belongs to the event loop. Use it inside `tracked`."""

    def __init__(
        self,
        tracking: Tracking,
        events: EventStream,
        contents: Contents,
        workspaces: Workspaces,
        earlier: Sequence[ChangeSet],
    ) -> None:
        self._tracking = tracking
        self._events = events
        self._contents = contents
        self._workspaces = workspaces
        self._sets = list(earlier)
        self._ledger = Ledger(earlier)
        self._active = 0
        self._last_active = 0.0
        self._window: Window | None = None
        self._lock = asyncio.Lock()
        self._pending: asyncio.Task[None] | None = None
        self._begun: asyncio.Task[None] | None = None
        self._has_calls = asyncio.Event()
        self._remembers = False
        self._needs_scan = False
        self._failed = False

    @property
    def place(self) -> str:
        """Implements `Worker`."""
        return self._tracking.place

    def was_active_since(self, moment: float) -> bool:
        """Implements `Worker`."""
        return self._active > 0 or self._last_active >= moment

    def has_written(self, path: str, state: FileState | None) -> bool:
        """Implements `Worker`."""
        return self._ledger.was_written(path.removeprefix(f"{self.place}/"), state)

    def past(self) -> PastWorker:
        """Returns what others need to know of it when it has ended."""
        return PastWorker(self.place, self._last_active, self._ledger.written)

    async def before_call(self) -> None:
        """Waits until the effects of a call that is about to begin can be told from earlier ones."""
        self._has_calls.set()
        if self._begun and not self._begun.done():
            await asyncio.wait([self._begun], timeout=_BEGIN_TIMEOUT_SECONDS)
            if not self._begun.done():
                self._begun.cancel()
                self._give_up(f"looking at its files took more than {_BEGIN_TIMEOUT_SECONDS:g} s")
        while not self._active and self._pending and not self._pending.done():
            await asyncio.wait([self._pending])
        if self._window is None:
            self._window = Window(time.time() - _CLOCK_TICK_SECONDS, self._tracking.is_quiet)
        self._active += 1

    def call_ended(self, tool_call_id: str, *, is_file_tool: bool) -> None:
        """Looks for the effects of a call, in the background."""
        self._active -= 1
        self._last_active = time.time()
        self._needs_scan |= not is_file_tool
        self._pending = asyncio.create_task(self._collect(tool_call_id, self._pending), name="changes")

    @property
    def is_finished(self) -> bool:
        """Whether no call has effects that were not looked for."""
        return not (self._needs_scan or self._active or (self._pending and not self._pending.done()))

    async def finish(self, *, is_interrupted: bool) -> None:
        """Looks for the effects of the last calls, cancelled ones included."""
        seconds = _INTERRUPTED_SCAN_TIMEOUT_SECONDS if is_interrupted else _LAST_SCAN_TIMEOUT_SECONDS
        if self.is_finished:
            return
        if self._active:
            self._needs_scan = True
        try:
            async with asyncio.timeout(seconds):
                await self._collect("", self._pending)
        except TimeoutError:
            logger.warning("last_scan_abandoned execution=%s seconds=%g", self._events.execution_id, seconds)

    async def summary(self) -> event_pb2.FilesChangedSummary | None:
        """Counts what the execution has changed in all; None if nothing. Raises LogError."""
        if not self._sets:
            return None
        changes = await self._contents.net(await asyncio.to_thread(net_changes, self._sets))
        return summarize(changes) if changes else None

    async def begin(self) -> None:
        """Remembers the files before the first call; where few executions run, while the model still thinks.

        What ends without a call is not worth a look at the files: of many executions, that takes more than all else.
        """
        try:
            await asyncio.wait_for(self._has_calls.wait(), _BEGIN_DELAY_SECONDS)
        except TimeoutError:
            if self._workspaces.is_crowded:
                await self._has_calls.wait()
        self._remembers = True
        await self._tracking.written(self._ledger.accept)
        await self._attempt(self._tracking.begin())

    async def _collect(self, tool_call_id: str, previous: "asyncio.Task[None] | None") -> None:
        if previous and not previous.done():
            await asyncio.wait([previous])
        async with self._lock:
            window, self._window = self._window, None
            if self._active:  # of another call that still runs
                self._window = window
            found: list[RecordedChange] = []
            await self._attempt(self._tracking.written(lambda change: self._record(change, window, found)))
            if self._needs_scan and not self._failed:
                self._needs_scan = False
                await self._attempt(self._tracking.scan(lambda change: self._record(change, window, found)))
            if found:
                await self._publish(tool_call_id, sorted(found, key=lambda change: change.path))

    async def _record(self, change: FoundChange, window: Window | None, found: list[RecordedChange]) -> None:
        if self._ledger.has(change):
            return
        known = self._ledger.known(change)
        if not change.is_exact and (self._is_outside(change, window) or self._workspaces.is_anothers(self, change)):
            self._ledger.learn(change)
            return
        is_shared = not change.is_exact and self._workspaces.is_shared(self, window.start if window else 0.0)
        recorded = await self._contents.record(change, known, is_shared=is_shared)
        self._ledger.record(recorded, is_exact=change.is_exact)
        found.append(recorded)

    def _is_outside(self, change: FoundChange, window: Window | None) -> bool:
        """Returns whether somebody else made a change: before the call, when nothing of the execution ran."""
        return bool(window and window.is_quiet and 0 < change.changed_at < window.start)

    async def _publish(self, tool_call_id: str, found: Sequence[RecordedChange]) -> None:
        data = await asyncio.to_thread(ChangeSet(0, found, tool_call_id).encode)
        listed = [file_change(each) for each in found[:_MAX_LISTED]]
        event = event_pb2.FilesChanged(tool_call_id=tool_call_id, changes=listed, omitted=len(found) - len(listed))
        sequence = self._events.publish(event)
        self._sets.append(ChangeSet(sequence, found, tool_call_id))
        self._events.append(NewChangeSet(self._events.execution_id, sequence, data), len(data))

    async def _attempt(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except (TrackingError, SandboxError, LogError) as error:
            self._give_up(str(error))

    def _give_up(self, reason: str) -> None:
        if self._failed:
            return
        self._failed = True
        text = f"Changes by commands are not tracked: {self._contents.redactor.text(reason)}. File tools are."
        notice = event_pb2.Notice(level=event_pb2.Notice.LEVEL_INFO, code="CHANGES_NOT_TRACKED", text=text)
        self._events.publish(notice)


@asynccontextmanager
async def tracked(tracker: ChangeTracker, workspaces: Workspaces) -> AsyncIterator[ChangeTracker]:
    """Begins to track in the background, and stops when the context ends."""
    workspaces.enter(tracker)
    tracker._begun = asyncio.create_task(tracker.begin(), name="changes-begin")  # noqa: SLF001  # of this module
    try:
        yield tracker
    finally:
        workspaces.leave(tracker, tracker.past())
        await run_to_completion(_stop(tracker))


async def _stop(tracker: ChangeTracker) -> None:
    running = [each for each in (tracker._begun, tracker._pending) if each and not each.done()]  # noqa: SLF001  # as above
    for each in running:
        each.cancel()
    if running:
        await asyncio.wait(running)
    if tracker._remembers:  # noqa: SLF001  # as above
        with suppress(TrackingError, SandboxError):
            await tracker._tracking.end()  # noqa: SLF001  # as above


def summarize(changes: Sequence[RecordedChange]) -> event_pb2.FilesChangedSummary:
    """Counts files and lines."""
    return event_pb2.FilesChangedSummary(
        files=len(changes),
        lines_added=sum(each.lines_added for each in changes),
        lines_removed=sum(each.lines_removed for each in changes),
    )
