"""Reports the status of executions to the daemon, concurrently: no execution ever waits for the daemon.

Reports are derived from the event log, so only the ids of executions with a pending report are stored;
an undelivered report is rebuilt from the log after a restart.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TYPE_CHECKING

from runner_service.errors import CallError, NotFoundError, UnavailableError
from runner_service.identity import OwnerKey, bare_id
from runner_service.stigmer.client import DaemonClient, ReportRefusedError
from runner_service.stigmer.pending_reports import add_pending_report, pending_reports, remove_pending_report
from runner_service.stigmer.report_throttle import ReportThrottle
from runner_service.stigmer.status import LISTS, StatusBuilder
from runner_service.storage.event_log import EventLog, LogError
from runner_service.v1 import agent_runner_pb2 as runner_pb2

if TYPE_CHECKING:
    from runner_service.events.stream import EventStream

logger = logging.getLogger(__name__)

OpenStream = Callable[[OwnerKey], "AbstractAsyncContextManager[EventStream]"]

_PAGE_TIMEOUT_SECONDS = 60.0
_INLINE_PAGE_BYTES = 16 * 1024
_INLINE_STATUS_BYTES = 64 * 1024
_FAILED_REPORT_BACKOFF_SECONDS = 2.0
_INITIAL_BACKOFF_SECONDS = 0.2
_MAX_BACKOFF_SECONDS = 10.0
_FINAL_REPORTS_TIMEOUT_SECONDS = 0.5  # with the drain it has to stay below the 10 s after which the daemon kills


class Reporter:
    """Reports executions. Construct it with `running_reporter`."""

    def __init__(self, client: DaemonClient, log: EventLog, tasks: asyncio.TaskGroup) -> None:
        self._client = client
        self._log = log
        self._tasks = tasks
        self._open_stream: OpenStream | None = None
        self._following: dict[str, asyncio.Task[None]] = {}

    async def attach(self, open_stream: OpenStream) -> None:
        """Resumes the pending reports of earlier processes. `open_stream` opens the events of an execution."""
        self._open_stream = open_stream
        for execution_id in await pending_reports(self._log):
            self.follow(OwnerKey(execution_id))

    def follow(self, execution_id: OwnerKey) -> None:
        """Starts reporting an execution that is in the log, until its end."""
        if execution_id not in self._following:
            task = self._tasks.create_task(self._follow(execution_id), name=f"report-{execution_id}")
            self._following[execution_id] = task
            task.add_done_callback(lambda _: self._following.pop(execution_id, None))

    async def follow_if_pending(self, execution_id: OwnerKey) -> None:
        """Starts reporting an execution that another process has begun to report. Raises LogError."""
        if execution_id not in self._following and execution_id in await pending_reports(self._log):
            self.follow(execution_id)

    async def wait_reported(self, execution_id: OwnerKey) -> None:
        """Waits until the final report of an execution has arrived, or was refused."""
        with suppress(LogError):  # the next process finds it pending
            await self.follow_if_pending(execution_id)
        while task := self._following.get(execution_id):
            await asyncio.wait([task])

    async def send_refusal(self, execution_id: str, status: bytes) -> None:
        """Reports that an execution was never started. Returns when the report has arrived or was refused."""
        delay = _INITIAL_BACKOFF_SECONDS
        try:
            while not await self._client.update_status(bare_id(execution_id), status):
                await self._client.wait_before_retry(delay)
                delay = min(2 * delay, _MAX_BACKOFF_SECONDS)
        except ReportRefusedError as refusal:
            logger.warning("report_refused execution=%s reason=%s", execution_id, refusal)

    async def finish_reports(self) -> None:
        """Waits briefly for the last reports; the next process rebuilds those that do not arrive."""
        if self._following:
            _, late = await asyncio.wait(self._following.values(), timeout=_FINAL_REPORTS_TIMEOUT_SECONDS)
            for task in late:
                task.cancel()
            if late:
                logger.info("reports_left count=%d", len(late))

    async def _follow(self, execution_id: OwnerKey) -> None:
        if self._open_stream is None:
            raise RuntimeError("follow was called before attach")
        try:
            async with self._open_stream(execution_id) as stream:
                if _is_reported_elsewhere(stream):
                    return
                add_pending_report(stream)
                await self._deliver(execution_id, stream)
                remove_pending_report(stream)
                await stream.flush()
        except* CallError as stop:
            logger.debug("report_postponed execution=%s reason=%s", execution_id, stop.exceptions[0])
        except* Exception:  # a bug in one report must not end the service or other reports
            logger.exception("report_failed execution=%s", execution_id)

    async def _deliver(self, execution_id: str, stream: "EventStream") -> None:
        try:
            await _first_event(stream)
            builder = await self._new_builder(execution_id)
            await _Report(execution_id, self._client, stream, builder).deliver()
        except* ReportRefusedError as refusals:
            logger.warning("report_refused execution=%s reason=%s", execution_id, refusals.exceptions[0])

    async def _new_builder(self, execution_id: str) -> StatusBuilder:
        stored = await self._log.get(execution_id)
        if stored is None:
            raise NotFoundError(f"execution {execution_id} is not in the log")
        user_message = stored.request.message if stored.request else ""
        return StatusBuilder(user_message, stored.execution.create_time)


class _Report:
    """Reports one execution: one task reads its events, another sends the status."""

    def __init__(self, execution_id: str, client: DaemonClient, stream: "EventStream", builder: StatusBuilder) -> None:
        self._execution_id = bare_id(execution_id)
        self._client = client
        self._stream = stream
        self._builder = builder
        self._builder_lock = asyncio.Lock()
        self._wake = asyncio.Event()
        self._complete = asyncio.Event()
        self._throttle = ReportThrottle()

    async def deliver(self) -> None:
        """Returns when the final report has arrived.

        Raises:
            ExceptionGroup: of ReportRefusedError, or of CallError when the events end before the execution does.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read())
            tasks.create_task(self._send())

    async def _read(self) -> None:
        after = 0
        try:
            while (page := await self._stream.page(self, after, timeout_seconds=_PAGE_TIMEOUT_SECONDS)) is not None:
                if _is_reported_elsewhere(self._stream):
                    raise UnavailableError("another replica has taken it out of the queue, and reports it")
                after = page.last
                await self._apply_page(page.frames)
                if self._stream.committed <= after:  # no intermediate reports of old events
                    self._wake.set()
        finally:
            self._stream.remove_watcher(self)
        self._complete.set()
        self._wake.set()

    async def _apply_page(self, frames: bytes) -> None:
        async with self._builder_lock:
            if len(frames) <= _INLINE_PAGE_BYTES:
                _apply_frames(self._builder, frames)
            else:
                await asyncio.to_thread(_apply_frames, self._builder, frames)

    async def _send(self) -> None:
        while not self._complete.is_set():
            await self._wait_until_due()
            if not self._complete.is_set():
                await self._send_changes()
        delay = _INITIAL_BACKOFF_SECONDS
        # The final report carries every list, whatever became of those before.
        final = await self._build_report(LISTS)
        while not await self._client.update_status(self._execution_id, final):
            await self._client.wait_before_retry(delay)
            delay = min(2 * delay, _MAX_BACKOFF_SECONDS)

    async def _build_report(self, lists: AbstractSet[str]) -> bytes:
        """Encodes a report; a large one in a thread, to keep the event loop free."""
        if self._builder.size <= _INLINE_STATUS_BYTES:
            return self._builder.report(lists)
        return await asyncio.to_thread(self._builder.report, lists)

    async def _wait_until_due(self) -> None:
        """Returns when a report is due or the execution has ended."""
        delay: float | None = None
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._wake.wait()
            self._wake.clear()
            if self._complete.is_set():
                return
            builder = self._builder
            if not (builder.changed or builder.is_urgent):
                delay = None
                continue
            report = builder.size - sum(builder.sizes[name] for name in LISTS - builder.changed)
            delay = self._throttle.delay_before(report, builder.size, time.monotonic(), urgent=builder.is_urgent)
            if delay == 0.0:
                return

    async def _send_changes(self) -> None:
        """Sends the changed lists. If that fails they count as changed again, after a backoff."""
        async with self._builder_lock:
            urgent, changed = self._builder.is_urgent, self._builder.clear_changes()
            report, size = await self._build_report(changed), self._builder.size
        self._throttle.record_report(len(report), size, time.monotonic())
        if await self._client.update_status(self._execution_id, report):
            return
        self._builder.changed |= changed
        self._builder.is_urgent |= urgent
        self._wake.set()
        await self._wait_for_daemon()

    async def _wait_for_daemon(self) -> None:
        """Waits for the backoff, or until the execution ends if that is sooner."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_FAILED_REPORT_BACKOFF_SECONDS):
                await self._complete.wait()


def _is_reported_elsewhere(stream: "EventStream") -> bool:
    """Whether another replica owns an execution: that one reports it."""
    return stream.is_remote and bool(stream.positions.owners)


async def _first_event(stream: "EventStream") -> None:
    """Waits until the log has the first event of an execution that was just accepted."""
    watcher = object()
    try:
        while (
            page := await stream.page(watcher, 0, timeout_seconds=_PAGE_TIMEOUT_SECONDS)
        ) is not None and not page.frames:
            pass
    finally:
        stream.remove_watcher(watcher)


def _apply_frames(builder: StatusBuilder, frames: bytes) -> None:
    for event in runner_pb2.ExecuteAgentResponse.FromString(frames).events:
        builder.apply_event(event)


@asynccontextmanager
async def running_reporter(client: DaemonClient, log: EventLog) -> AsyncIterator[Reporter]:
    """Reports until the context ends. Close the event streams before it."""
    async with asyncio.TaskGroup() as tasks:
        reporter = Reporter(client, log, tasks)
        try:
            yield reporter
        finally:
            await reporter.finish_reports()
