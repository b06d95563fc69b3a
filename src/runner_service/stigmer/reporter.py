"""Reports to the daemon how its executions go, beside them: whatever the daemon does, no execution waits for it.

The log of events is where reports are made from. So nothing has to be kept but which executions are to be reported,
and a report that could not be delivered is made again, from the log, after any restart.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from runner_service.errors import CallError, NotFoundError
from runner_service.stigmer.client import DaemonClient, ReportRefusedError
from runner_service.stigmer.pending_reports import Notes
from runner_service.stigmer.report_throttle import Pace
from runner_service.stigmer.status import LISTS, StatusFold
from runner_service.storage.event_log import EventLog
from runner_service.v1 import agent_runner_pb2 as runner_pb2

if TYPE_CHECKING:
    from runner_service.events.stream import EventStream

logger = logging.getLogger(__name__)

Watch = Callable[[str], "AbstractAsyncContextManager[EventStream]"]

_PAGE_PATIENCE = 60.0
_SMALL_PAGE = 16 * 1024
_SMALL_STATUS = 64 * 1024
_FAILED_PAUSE = 2.0
_FIRST_DELAY = 0.2
_LONGEST_DELAY = 10.0
_LAST_WORDS_WITHIN = 0.5  # with the drain it has to stay below the 5 s after which the daemon kills


class Reporter:
    """Reports executions. Construct it with `running_reporter`."""

    def __init__(self, client: DaemonClient, log: EventLog, notes: Notes, tasks: asyncio.TaskGroup) -> None:
        self._client = client
        self._log = log
        self._notes = notes
        self._tasks = tasks
        self._watch: Watch | None = None
        self._following: dict[str, asyncio.Task[None]] = {}

    async def attach(self, watch: Watch) -> None:
        """Goes on with what earlier processes owe. `watch` opens the events of an execution."""
        self._watch = watch
        for execution_id in await self._notes.all():
            self.follow(execution_id)

    async def promise(self, execution_id: str) -> None:
        """Writes down that an execution is to be reported. Raises OSError."""
        await self._notes.put(execution_id)

    def follow(self, execution_id: str) -> None:
        """Reports an execution that is in the log, from here to its end."""
        if execution_id not in self._following:
            task = self._tasks.create_task(self._follow(execution_id), name=f"report-{execution_id}")
            self._following[execution_id] = task
            task.add_done_callback(lambda _: self._following.pop(execution_id, None))

    async def settle(self) -> None:
        """Gives the last reports a moment to arrive; what does not will be made again by the next process."""
        if self._following:
            _, late = await asyncio.wait(self._following.values(), timeout=_LAST_WORDS_WITHIN)
            for task in late:
                task.cancel()
            if late:
                logger.info("reports_left count=%d", len(late))

    async def _follow(self, execution_id: str) -> None:
        if self._watch is None:
            raise RuntimeError("nothing is followed before attach")
        try:
            async with self._watch(execution_id) as stream:
                await _first_event(stream)
                fold = await self._new_fold(execution_id)
                await _Report(execution_id, self._client, stream, fold).deliver()
            await self._notes.remove(execution_id)
        except* NotFoundError:
            await self._notes.remove(execution_id)
        except* ReportRefusedError as refusals:
            logger.warning("report_refused execution=%s reason=%s", execution_id, refusals.exceptions[0])
            await self._notes.remove(execution_id)
        except* CallError as stop:
            logger.debug("report_put_off execution=%s reason=%s", execution_id, stop.exceptions[0])
        except* Exception:  # a defect in a report may not end the service, nor the other reports
            logger.exception("report_failed execution=%s", execution_id)

    async def _new_fold(self, execution_id: str) -> StatusFold:
        stored = await self._log.get(execution_id)
        if stored is None:
            raise NotFoundError(f"execution {execution_id} is not in the log")
        wish = stored.request.message if stored.request else ""
        return StatusFold(wish, stored.execution.create_time)


class _Report:
    """Tells the daemon of one execution: one task reads its events, one sends what came of them."""

    def __init__(self, execution_id: str, client: DaemonClient, stream: "EventStream", fold: StatusFold) -> None:
        self._execution_id = execution_id
        self._client = client
        self._stream = stream
        self._fold = fold
        self._folding = asyncio.Lock()
        self._news = asyncio.Event()
        self._complete = asyncio.Event()
        self._pace = Pace()

    async def deliver(self) -> None:
        """Returns when the last report has arrived.

        Raises:
            ExceptionGroup: of ReportRefusedError, or of CallError when the events end before the execution does.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read())
            tasks.create_task(self._send())

    async def _read(self) -> None:
        after = 0
        try:
            while (page := await self._stream.page(self, after, patience=_PAGE_PATIENCE)) is not None:
                after = page.last
                await self._take(page.frames)
                if self._stream.committed <= after:  # what is long past need not be told step by step
                    self._news.set()
        finally:
            self._stream.leave(self)
        self._complete.set()
        self._news.set()

    async def _take(self, frames: bytes) -> None:
        async with self._folding:
            if len(frames) <= _SMALL_PAGE:
                _fold_page(self._fold, frames)
            else:
                await asyncio.to_thread(_fold_page, self._fold, frames)

    async def _send(self) -> None:
        while not self._complete.is_set():
            await self._wait_until_due()
            if not self._complete.is_set():
                await self._send_changes()
        delay = _FIRST_DELAY
        # The last one is whole, whatever became of those before.
        whole = await self._made(LISTS)
        while not await self._client.update_status(self._execution_id, whole):
            await self._client.pause(delay)
            delay = min(2 * delay, _LONGEST_DELAY)

    async def _made(self, lists: AbstractSet[str]) -> bytes:
        """Makes a report; a large one in a thread, since much may have changed."""
        if self._fold.size <= _SMALL_STATUS:
            return self._fold.report(lists)
        return await asyncio.to_thread(self._fold.report, lists)

    async def _wait_until_due(self) -> None:
        """Returns when there is something to send and it may go, or all is over."""
        pause: float | None = None
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._news.wait()
            self._news.clear()
            if self._complete.is_set():
                return
            fold = self._fold
            if not (fold.changed or fold.is_urgent):
                pause = None
                continue
            report = fold.size - sum(fold.sizes[name] for name in LISTS - fold.changed)
            pause = self._pace.wait(report, fold.size, time.monotonic(), urgent=fold.is_urgent)
            if pause == 0.0:
                return

    async def _send_changes(self) -> None:
        """Sends the lists that have changed. What does not arrive counts as changed again, after a while."""
        async with self._folding:
            urgent, changed = self._fold.is_urgent, self._fold.unchanged()
            report, size = await self._made(changed), self._fold.size
        self._pace.note(len(report), size, time.monotonic())
        if await self._client.update_status(self._execution_id, report):
            return
        self._fold.changed |= changed
        self._fold.is_urgent |= urgent
        self._news.set()
        await self._wait_for_daemon()

    async def _wait_for_daemon(self) -> None:
        """Waits a while, or less when there is an end to be told."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_FAILED_PAUSE):
                await self._complete.wait()


async def _first_event(stream: "EventStream") -> None:
    """Waits until an execution that was just accepted is in the log, with something that happened."""
    watcher = object()
    try:
        while (page := await stream.page(watcher, 0, patience=_PAGE_PATIENCE)) is not None and not page.frames:
            pass
    finally:
        stream.leave(watcher)


def _fold_page(fold: StatusFold, frames: bytes) -> None:
    for event in runner_pb2.ExecuteAgentResponse.FromString(frames).events:
        fold.take(event)


@asynccontextmanager
async def running_reporter(client: DaemonClient, log: EventLog, directory: Path) -> AsyncIterator[Reporter]:
    """Reports until the context ends; `directory` remembers what is owed. End the executions' streams before it."""
    async with asyncio.TaskGroup() as tasks:
        reporter = Reporter(client, log, Notes(directory), tasks)
        try:
            yield reporter
        finally:
            await reporter.settle()
