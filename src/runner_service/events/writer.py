"""The one way into the log: what all executions publish, committed in batches, and only then shown.

There are no timers: with nothing else to do an event is committed alone, and under load the batches grow by themselves.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from runner_service.errors import LogUnavailableEnd
from runner_service.storage.event_log import Entry, EventLog, LogError, NewEvent, NewOutput
from runner_service.telemetry import metrics

logger = logging.getLogger(__name__)

_BACKLOG_BYTES = 8 * 1024 * 1024
_ENTRY_OVERHEAD = 200
_LOG_PATIENCE = 3.0
_LAST_TRY = 1.0  # a daemon kills what takes 5 s to stop, and drains have to be within them too
_FIRST_RETRY_DELAY = 0.05
_LONGEST_RETRY_DELAY = 2.0


class LogSubscriber(Protocol):
    """What the writer tells the stream of an execution about its entries."""

    broken: LogUnavailableEnd | None
    """Why the log cannot be written, once the stream has been told."""

    def seal(self) -> None:
        """The writer takes what was published so far: the next event begins another entry."""

    def commit(self, events: NewEvent) -> None:
        """These events are in the log now. Called in order."""

    def announce(self) -> None:
        """A batch was committed: wakes whoever waits."""

    def break_off(self, error: LogUnavailableEnd) -> None:
        """The log cannot be written. May be called again."""

    def mend(self) -> None:
        """The log can be written again."""


_Batch = list[tuple[LogSubscriber, Entry]]


@dataclass(slots=True)
class Run:
    """Events of one execution that follow each other and wait for the same batch: one entry of the log in the end."""

    execution_id: str
    frames: list[bytes]
    last: int
    size: int

    def sealed(self) -> NewEvent:
        """Returns it as it stands."""
        return NewEvent(self.execution_id, self.last, b"".join(self.frames), count=len(self.frames))


class LogWriter:
    """Commits what all executions publish, in batches, and tells their streams. Construct it with `log_writer`."""

    def __init__(self, log: EventLog, on_change: Callable[[bool], None]) -> None:
        self._log = log
        self._on_change = on_change
        self._pending: list[tuple[LogSubscriber, Entry | Run]] = []
        self._pending_bytes = 0
        self._arrived = asyncio.Event()
        self.has_room = asyncio.Event()
        """Set unless the backlog is too large."""
        self.has_room.set()
        self._broken: LogUnavailableEnd | None = None
        self._closing = False

    @property
    def broken(self) -> LogUnavailableEnd | None:
        """Why the log cannot be written at the moment; None when it can."""
        return self._broken

    @property
    def backlog(self) -> int:
        """About how many bytes wait for their commit."""
        return self._pending_bytes

    def put(self, stream: LogSubscriber, entry: Entry | Run, size: int) -> None:
        """Takes an entry of about `size` bytes for the next batch."""
        self._pending.append((stream, entry))
        self.put_more(size)
        self._arrived.set()
        if self._broken and not stream.broken:
            stream.break_off(self._broken)

    def put_more(self, size: int) -> None:
        """Takes notice that an entry that waits has grown by `size` bytes."""
        self._pending_bytes += size + _ENTRY_OVERHEAD
        if self._pending_bytes > _BACKLOG_BYTES:
            self.has_room.clear()

    async def run(self) -> None:
        """Commits batches until `close` was called and nothing is left."""
        while self._pending or not self._closing:
            await self._arrived.wait()
            self._arrived.clear()
            await self._commit_pending()

    def close(self) -> None:
        """Lets `run` end once everything is committed."""
        self._closing = True
        self._arrived.set()

    async def _commit_pending(self) -> None:
        await self._append(self._take_pending())
        if self._pending_bytes <= _BACKLOG_BYTES:
            self.has_room.set()

    def _take_pending(self) -> _Batch:
        taken, self._pending = self._pending, []
        self._pending_bytes = 0
        batch: _Batch = []
        for stream, entry in taken:
            stream.seal()
            batch.append((stream, entry.sealed() if isinstance(entry, Run) else entry))
        return batch

    async def _append(self, batch: _Batch) -> None:
        """Appends, however often that takes: what is in a batch has happened, and may not be forgotten.

        Once it has failed for long it goes in parts, so that a disk takes what it has room for.
        """
        began, delay = time.monotonic(), _FIRST_RETRY_DELAY
        parts = [batch]
        while parts:
            tried = time.monotonic()
            try:
                await self._log.append([entry for _, entry in parts[0]])
            except LogError as error:
                if not self._broken and time.monotonic() - began > _LOG_PATIENCE:
                    self._break(batch, error)
                    parts = list(_in_parts(batch))
                await asyncio.sleep(delay)
                delay = min(2 * delay, _LONGEST_RETRY_DELAY)
            else:
                part = parts.pop(0)
                metrics.log_committed(len(part), time.monotonic() - tried)
                if not parts:
                    self._mend(batch)
                _show(part)

    def _break(self, batch: _Batch, error: LogError) -> None:
        logger.error("log_write_failed error=%s", error)
        self._broken = LogUnavailableEnd(f"the event log cannot be written: {error}")
        self._on_change(True)
        for stream in {stream: None for stream, _ in [*batch, *self._pending]}:
            stream.break_off(self._broken)

    def _mend(self, batch: _Batch) -> None:
        if self._broken:
            logger.info("log_write_works_again")
            self._broken = None
            self._on_change(False)
            for stream, _ in batch:
                stream.mend()


def _in_parts(batch: _Batch) -> Iterator[_Batch]:
    """Cuts a batch between executions, and before what commands wrote, since that is large.

    Nowhere else: the end of an execution and its final state belong together.
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


def _show(part: _Batch) -> None:
    """Lets watchers see what is in the log now."""
    streams: dict[LogSubscriber, None] = {}
    for stream, entry in part:
        if isinstance(entry, NewEvent):
            stream.commit(entry)
        streams[stream] = None
    for stream in streams:
        stream.announce()


@asynccontextmanager
async def log_writer(log: EventLog, *, on_change: Callable[[bool], None] = lambda _: None) -> AsyncIterator[LogWriter]:
    """Runs the writer of `log`; what was published inside is in the log afterwards, if it can be written at all.

    `on_change` hears True when the log cannot be written any more, and False when it can again.
    """
    writer = LogWriter(log, on_change)
    readings: dict[metrics.Gauge, metrics.Reading] = {
        metrics.LOG_BACKLOG: lambda: writer.backlog,
        metrics.LOG_UNAVAILABLE: lambda: int(writer.broken is not None),
    }
    task = asyncio.create_task(writer.run(), name="log-writer")
    try:
        with metrics.gauges_observed(readings):
            yield writer
    finally:
        writer.close()
        _, unfinished = await asyncio.wait([task], timeout=_LAST_TRY if writer.broken else 2 * _LOG_PATIENCE)
        for abandoned in unfinished:
            logger.error("log_write_abandoned error=%s", writer.broken)
            abandoned.cancel()
            await asyncio.wait(unfinished)
