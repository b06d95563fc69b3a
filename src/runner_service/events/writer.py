"""Group commit: appends what all executions publish to the event log in batches, then wakes their watchers.

There are no timers: an idle writer commits an event at once, and under load the batches grow.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from runner_service.errors import LogUnavailableEnd
from runner_service.storage.event_log import Entry, EventLog, LogError, NewEvent, NewOutput, Rejection
from runner_service.telemetry import metrics

logger = logging.getLogger(__name__)

_MAX_BACKLOG_BYTES = 8 * 1024 * 1024
_ENTRY_OVERHEAD_BYTES = 200
_WRITE_TIMEOUT_SECONDS = 3.0
_CLOSE_TIMEOUT_WHEN_BROKEN_SECONDS = 1.0  # a daemon kills after 10 s, drain included
_MIN_BACKOFF_SECONDS = 0.05
_MAX_BACKOFF_SECONDS = 2.0


class LogSubscriber(Protocol):
    """Callbacks of the writer to the stream that published an entry."""

    execution_id: str
    owner_token: int
    """The token of this process as the owner of the execution, as of `Ownership`."""

    broken: LogUnavailableEnd | None
    """Set once the stream has been notified that the log cannot be written."""

    def close_run(self) -> None:
        """The writer takes the current run: the next event starts another one."""

    def on_committed(self, entry: Entry) -> None:
        """The entry has been committed. Called in order."""

    def on_rejected(self, rejection: Rejection) -> None:
        """An entry has been rejected for good, and those that follow will be."""

    def wake_watchers(self) -> None:
        """A batch has been committed."""

    def fail(self, error: LogUnavailableEnd) -> None:
        """The log cannot be written. May be called more than once."""

    def recover(self) -> None:
        """The log can be written again."""


_Batch = list[tuple[LogSubscriber, Entry]]


@dataclass(slots=True)
class EventRun:
    """Consecutive events of one execution that wait for the same batch, and become one entry of the log."""

    execution_id: str
    frames: list[bytes]
    last: int
    size: int

    def to_entry(self) -> NewEvent:
        """Returns the entry to append."""
        return NewEvent(self.execution_id, self.last, b"".join(self.frames), count=len(self.frames))


class LogWriter:
    """Commits entries of all executions in batches and notifies their streams. Construct it with `log_writer`."""

    def __init__(self, log: EventLog, on_change: Callable[[bool], None], write_timeout_seconds: float) -> None:
        self._log = log
        self._write_timeout_seconds = write_timeout_seconds
        self._on_change = on_change
        self._pending: list[tuple[LogSubscriber, Entry | EventRun]] = []
        self._pending_bytes = 0
        self._arrived = asyncio.Event()
        self.has_capacity = asyncio.Event()
        """Cleared while the backlog is over its bound."""
        self.has_capacity.set()
        self._broken: LogUnavailableEnd | None = None
        self._closing = False
        self.committed_events = 0
        """How many events have been committed since the start."""

    @property
    def broken(self) -> LogUnavailableEnd | None:
        """Why the log cannot be written; None when it can."""
        return self._broken

    @property
    def backlog(self) -> int:
        """Approximate bytes that wait to be committed."""
        return self._pending_bytes

    def enqueue(self, stream: LogSubscriber, entry: Entry | EventRun, size: int) -> None:
        """Adds an entry of about `size` bytes to the next batch."""
        self._pending.append((stream, entry))
        self.add_pending_bytes(size)
        self._arrived.set()
        if self._broken and not stream.broken:
            stream.fail(self._broken)

    def add_pending_bytes(self, size: int) -> None:
        """Counts `size` more bytes of an entry that waits."""
        self._pending_bytes += size + _ENTRY_OVERHEAD_BYTES
        if self._pending_bytes > _MAX_BACKLOG_BYTES:
            self.has_capacity.clear()

    async def run(self) -> None:
        """Commits batches until `close` is called and nothing is pending.

        A defect is raised once the streams that wait have been notified: no commit would come for them.
        """
        while self._pending or not self._closing:
            await self._arrived.wait()
            self._arrived.clear()
            await self._commit_pending()

    def expect_end(self) -> None:
        """The service stops: from now on a log that cannot be written is not waited for longer than a local one is."""
        self._write_timeout_seconds = min(self._write_timeout_seconds, _WRITE_TIMEOUT_SECONDS)

    def close(self) -> None:
        """Makes `run` return once everything is committed."""
        self._closing = True
        self._arrived.set()

    async def _commit_pending(self) -> None:
        taken, self._pending = self._pending, []
        self._pending_bytes = 0
        try:
            await self._append(_to_batch(taken))
        except Exception:
            logger.exception("log_writer_failed consequence=the_service_ends")
            self._break([stream for stream, _ in taken], LogUnavailableEnd("the writer of the event log has failed"))
            raise
        if self._pending_bytes <= _MAX_BACKLOG_BYTES:
            self.has_capacity.set()

    async def _append(self, batch: _Batch) -> None:
        """Appends a batch, retrying without limit: its events have happened and must not be lost.

        After the write timeout the batch is split, so that a nearly full disk stores what fits.
        """
        began, delay = time.monotonic(), _MIN_BACKOFF_SECONDS
        parts = [batch]
        while parts:
            tried = time.monotonic()
            try:
                rejected = await self._log.append([entry for _, entry in parts[0]], _owners(parts[0]))
            except LogError as error:
                if not self._broken and time.monotonic() - began > self._write_timeout_seconds:
                    logger.error("log_write_failed error=%s", error)  # noqa: TRY400  # its text says all
                    end = LogUnavailableEnd(f"the event log cannot be written: {error}")
                    self._break([stream for stream, _ in batch], end)
                    parts = list(_in_parts(batch))
                await asyncio.sleep(delay)
                delay = min(2 * delay, _MAX_BACKOFF_SECONDS)
            else:
                part = parts.pop(0)
                metrics.log_committed(len(part), time.monotonic() - tried)
                self.committed_events += sum(entry.count for _, entry in part if isinstance(entry, NewEvent))
                if not parts:
                    self._recover(batch)
                _publish(part, rejected)

    def _break(self, streams: Sequence[LogSubscriber], end: LogUnavailableEnd) -> None:
        self._broken = end
        self._on_change(True)
        for stream in dict.fromkeys([*streams, *(stream for stream, _ in self._pending)]):
            stream.fail(end)

    def _recover(self, batch: _Batch) -> None:
        if self._broken:
            logger.info("log_write_recovered")
            self._broken = None
            self._on_change(False)
            for stream, _ in batch:
                stream.recover()


def _to_batch(pending: Sequence[tuple[LogSubscriber, Entry | EventRun]]) -> _Batch:
    """Closes the runs of events, and returns everything as entries."""
    batch: _Batch = []
    for stream, entry in pending:
        stream.close_run()
        batch.append((stream, entry.to_entry() if isinstance(entry, EventRun) else entry))
    return batch


def _in_parts(batch: _Batch) -> Iterator[_Batch]:
    """Splits a batch between executions, and before command output, since that is large.

    Nowhere else: `finished` and the final state must be committed together.
    """
    by_stream: dict[LogSubscriber, _Batch] = {}
    for stream, entry in batch:
        by_stream.setdefault(stream, []).append((stream, entry))
    for entries in by_stream.values():
        part: _Batch = []
        for stream, entry in entries:
            if part and (isinstance(entry, NewOutput) or (isinstance(entry, NewEvent) and entry.output)):
                yield part
                part = []
            part.append((stream, entry))
        yield part


def _owners(part: _Batch) -> Mapping[str, int]:
    return {stream.execution_id: stream.owner_token for stream, _ in part if stream.owner_token}


def _publish(part: _Batch, rejected: Mapping[str, Rejection]) -> None:
    """Makes committed entries visible to watchers."""
    streams: dict[LogSubscriber, None] = {}
    for stream, entry in part:
        if rejected and (rejection := rejected.get(stream.execution_id)):
            stream.on_rejected(rejection)
        else:
            stream.on_committed(entry)
        streams[stream] = None
    for stream in streams:
        stream.wake_watchers()


@asynccontextmanager
async def log_writer(
    log: EventLog,
    *,
    on_change: Callable[[bool], None] = lambda _: None,
    write_timeout_seconds: float | None = None,
) -> AsyncIterator[LogWriter]:
    """Runs the writer of `log`. On exit everything published has been appended, if the log can be written.

    `on_change` is called with True when the log could not be written for `write_timeout_seconds`, and with False when
    it can be again. A defect of the writer cancels the caller, and leaves the context as an exception group: without a
    writer nothing can be served.
    """
    writer = LogWriter(log, on_change, write_timeout_seconds or _WRITE_TIMEOUT_SECONDS)
    readings: dict[metrics.Gauge, metrics.Reading] = {
        metrics.LOG_BACKLOG: lambda: writer.backlog,
        metrics.LOG_UNAVAILABLE: lambda: int(writer.broken is not None),
    }
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(writer.run(), name="log-writer")
        try:
            with metrics.gauges_observed(readings):
                yield writer
        finally:
            writer.close()
            await _wait_for_last_commit(task, writer)


async def _wait_for_last_commit(task: asyncio.Task[None], writer: LogWriter) -> None:
    timeout = _CLOSE_TIMEOUT_WHEN_BROKEN_SECONDS if writer.broken else 2 * _WRITE_TIMEOUT_SECONDS
    _, unfinished = await asyncio.wait([task], timeout=timeout)
    if unfinished:
        logger.error("log_write_abandoned error=%s", writer.broken)
        task.cancel()
        await asyncio.wait(unfinished)
