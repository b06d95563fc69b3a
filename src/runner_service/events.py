"""From what happened to who watches: number it, put it in the log, then show it.

`EventStream.publish` is the one way in, `EventStream.page` the one way out. Between them stands one `LogWriter` for all
executions: it takes what has gathered, commits it at once, and only then lets watchers see it. There are no timers:
with nothing else to do an event is committed alone, and under load the batches grow by themselves.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from google.protobuf.message import Message

from runner_service.errors import CallError, LogUnavailableEnd, UnavailableError
from runner_service.eventlog import Entry, EventLog, LogError, NewEvent, NewOutput, NewState, Page
from runner_service.executors import Stream
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

logger = logging.getLogger(__name__)

MAX_OUTPUT_BYTES_PER_EVENT = 256 * 1024
"""The most bytes of a command's output that one event carries."""

MAX_PAGE_BYTES = 1024 * 1024
"""About the most bytes that one response carries."""

_TAIL_BYTES = 2 * MAX_PAGE_BYTES
_KEPT_TAIL_BYTES = 64 * 1024
_BACKLOG_BYTES = 8 * MAX_PAGE_BYTES
_ENTRY_OVERHEAD = 200
_LOG_PATIENCE = 3.0
_FIRST_RETRY_DELAY = 0.05
_LONGEST_RETRY_DELAY = 2.0
_VARINT_MORE = 0x80

_FIELD_OF = {
    event.name: field.name
    for field in event_pb2.ExecutionEvent.DESCRIPTOR.oneofs[0].fields
    if (event := field.message_type) is not None
}


class EventStream:
    """The events of one execution: whatever happens is published here, and everybody who watches reads from here.

    Belongs to the event loop. Watchers read what was committed a moment ago from memory, the rest from the log.
    """

    def __init__(
        self, execution_id: str, writer: "LogWriter", log: EventLog, *, last_sequence: int = 0, finished: bool = False
    ) -> None:
        self.execution_id = execution_id
        self.last_sequence = last_sequence
        self.committed = last_sequence
        self.finished = finished
        self._published_finish = finished
        self._writer = writer
        self._log = log
        self._tail: deque[tuple[int, bytes]] = deque()
        self._tail_bytes = 0
        self._positions: dict[object, int] = {}
        self._news = asyncio.Event()
        self._closed_with: CallError | None = None
        self.broken: LogUnavailableEnd | None = None
        self.on_break: Callable[[LogUnavailableEnd], None] = lambda _: None

    def publish(self, event: Message, *, sub_agent_id: str = "") -> int:
        """Numbers an event, stamps it and hands it to the log; returns its sequence.

        `event` is one of the messages of `ExecutionEvent`'s oneof. Nothing is delivered before it is in the log.
        """
        record = self._record(sub_agent_id)
        getattr(record, _FIELD_OF[type(event).__name__]).CopyFrom(event)
        call = event.tool_call_id if isinstance(event, event_pb2.ToolCallStarted) else ""
        self._published_finish = isinstance(event, event_pb2.Finished)
        frame = _frame(record.SerializeToString())
        self._writer.put(self, NewEvent(self.execution_id, record.sequence, frame, tool_call_id=call), len(frame))
        return record.sequence

    def publish_output(self, tool_call_id: str, stream: Stream, data: bytes, *, sub_agent_id: str = "") -> None:
        """Publishes what a command wrote, as one event or more. Await `room` after it."""
        for start in range(0, len(data), MAX_OUTPUT_BYTES_PER_EVENT):
            self._publish_chunk(
                NewOutput(self.execution_id, tool_call_id, stream, data[start : start + MAX_OUTPUT_BYTES_PER_EVENT]),
                sub_agent_id,
            )

    def store_late_output(self, tool_call_id: str, stream: Stream, data: bytes) -> None:
        """Keeps what a command's leftovers wrote after it had ended: in its file, without an event."""
        self._writer.put(self, NewOutput(self.execution_id, tool_call_id, stream, data), len(data))

    def record_state(self, execution: runner_pb2.Execution) -> None:
        """Puts the execution's changed record in the log, in the same order as its events."""
        self._writer.put(self, NewState(execution), execution.ByteSize())

    async def room(self) -> None:
        """Returns at once, or as soon as the log has caught up.

        Raises:
            LogUnavailableEnd: the log cannot be written, so nothing more may happen.
        """
        if self.broken:
            raise self.broken
        await self._writer.room()

    async def flush(self) -> None:
        """Waits until everything that was published is in the log, or the log cannot be written."""
        while self.committed < self.last_sequence and not self.broken:
            await self._news.wait()

    async def read_output(self, tool_call_id: str, stream: Stream, offset: int, max_bytes: int) -> bytes:
        """Reads what a command wrote. Raises LogError."""
        return await self._log.read_output(self.execution_id, tool_call_id, stream, offset, max_bytes) or b""

    async def page(self, watcher: object, after: int, *, patience: float) -> Page | None:
        """The next events above `after` for `watcher`, as soon as there are any; None at the end.

        Returns an empty page when nothing happened for `patience` seconds.

        Raises:
            UnavailableError: the service stops, or its log cannot be read; attach again later.
        """
        self._positions[watcher] = after
        while self.committed <= after:
            if self.finished:
                return None
            if self._closed_with:
                raise self._closed_with
            try:
                async with asyncio.timeout(patience):
                    await self._news.wait()
            except TimeoutError:
                return Page(b"", after)
        return self._page_from_tail(after) or await self._page_from_log(after)

    def leave(self, watcher: object) -> None:
        """Forgets a watcher."""
        self._positions.pop(watcher, None)
        if not self._positions:
            self._tail.clear()
            self._tail_bytes = 0

    def close(self, error: CallError) -> None:
        """Ends every watcher with `error`, once it has seen what is in the log."""
        self._closed_with = error
        self._announce()

    def commit(self, sequence: int, frame: bytes, output: bytes) -> None:
        """Called by the writer, in order, for what is in the log now."""
        self.committed = sequence
        self.finished = self._published_finish and sequence == self.last_sequence
        if self._positions:
            self._tail.append((sequence, frame + output if output else frame))
            self._tail_bytes += len(frame) + len(output)

    def announce(self) -> None:
        """Called by the writer when a batch is committed: wakes whoever waits."""
        self._trim()
        self._announce()

    def break_off(self, error: LogUnavailableEnd) -> None:
        """Called by the writer when the log cannot be written."""
        self.broken = error
        self.on_break(error)
        self.close(UnavailableError(error.message, retry_delay=5.0))

    def mend(self) -> None:
        """Called by the writer when the log can be written again: whoever attaches now can follow to the end."""
        self._closed_with = None

    def _record(self, sub_agent_id: str) -> event_pb2.ExecutionEvent:
        self.last_sequence += 1
        record = event_pb2.ExecutionEvent(
            execution_id=self.execution_id, sequence=self.last_sequence, sub_agent_id=sub_agent_id
        )
        record.create_time.seconds, record.create_time.nanos = divmod(time.time_ns(), 1_000_000_000)
        return record

    def _publish_chunk(self, output: NewOutput, sub_agent_id: str) -> None:
        record = self._record(sub_agent_id)
        record.tool_output.tool_call_id = output.tool_call_id
        setattr(record.tool_output, output.stream, output.data)
        # Fields are written in the order of their numbers, so the bytes of the output come last.
        head = _frame(record.SerializeToString())[: -len(output.data)]
        self._published_finish = False
        self._writer.put(self, NewEvent(self.execution_id, record.sequence, head, output), len(head) + len(output.data))

    def _page_from_tail(self, after: int) -> Page | None:
        if not self._tail or self._tail[0][0] > after + 1:
            return None
        frames: list[bytes] = []
        size, last = 0, after
        for index in range(after + 1 - self._tail[0][0], len(self._tail)):
            sequence, frame = self._tail[index]
            if size and size + len(frame) > MAX_PAGE_BYTES:
                break
            frames.append(frame)
            size += len(frame)
            last = sequence
        return Page(b"".join(frames), last)

    async def _page_from_log(self, after: int) -> Page:
        try:
            return await self._log.read(self.execution_id, after, MAX_PAGE_BYTES)
        except LogError as error:
            logger.exception("log_read_failed execution_id=%s", self.execution_id)
            raise UnavailableError(f"the event log cannot be read: {error}") from error

    def _trim(self) -> None:
        """Keeps of the tail what the slowest watcher still needs, within the bound."""
        if self._tail_bytes <= _KEPT_TAIL_BYTES:
            return
        seen = min(self._positions.values(), default=self.committed)
        while self._tail and (self._tail[0][0] <= seen or self._tail_bytes > _TAIL_BYTES):
            self._tail_bytes -= len(self._tail.popleft()[1])

    def _announce(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()


class LogWriter:
    """Commits what all executions publish, in batches, and tells their streams. Construct it with `log_writer`."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._pending: list[tuple[EventStream, Entry]] = []
        self._pending_bytes = 0
        self._arrived = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._broken: LogUnavailableEnd | None = None
        self._closing = False

    @property
    def broken(self) -> LogUnavailableEnd | None:
        """Why the log cannot be written at the moment; None when it can."""
        return self._broken

    def put(self, stream: EventStream, entry: Entry, size: int) -> None:
        """Takes an entry of about `size` bytes for the next batch."""
        self._pending.append((stream, entry))
        self._pending_bytes += size + _ENTRY_OVERHEAD
        if self._pending_bytes > _BACKLOG_BYTES:
            self._has_room.clear()
        self._arrived.set()
        if self._broken and not stream.broken:
            stream.break_off(self._broken)

    async def room(self) -> None:
        """Waits while the backlog is too large."""
        await self._has_room.wait()

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
        batch, self._pending = self._pending, []
        self._pending_bytes = 0
        await self._append(batch)
        if self._pending_bytes <= _BACKLOG_BYTES:
            self._has_room.set()
        streams: dict[EventStream, None] = {}
        for stream, entry in batch:
            if isinstance(entry, NewEvent):
                stream.commit(entry.sequence, entry.frame, entry.output.data if entry.output else b"")
            streams[stream] = None
        for stream in streams:
            stream.announce()

    async def _append(self, batch: list[tuple[EventStream, Entry]]) -> None:
        """Appends, however often that takes: what is in a batch has happened, and may not be forgotten."""
        began = time.monotonic()
        delay = _FIRST_RETRY_DELAY
        while True:
            try:
                await self._log.append([entry for _, entry in batch])
            except LogError as error:
                if time.monotonic() - began > _LOG_PATIENCE:
                    self._break(batch, error)
                await asyncio.sleep(delay)
                delay = min(2 * delay, _LONGEST_RETRY_DELAY)
            else:
                self._mend(batch)
                return

    def _break(self, batch: list[tuple[EventStream, Entry]], error: LogError) -> None:
        if not self._broken:
            logger.error("log_write_failed error=%s", error)
            self._broken = LogUnavailableEnd(f"the event log cannot be written: {error}")
        for stream, _ in [*batch, *self._pending]:
            if not stream.broken:
                stream.break_off(self._broken)

    def _mend(self, batch: list[tuple[EventStream, Entry]]) -> None:
        if self._broken:
            logger.info("log_write_works_again")
            self._broken = None
            for stream, _ in batch:
                stream.mend()


@asynccontextmanager
async def log_writer(log: EventLog) -> AsyncIterator[LogWriter]:
    """Runs the writer of `log`; what was published inside is in the log afterwards, if it can be written at all."""
    writer = LogWriter(log)
    task = asyncio.create_task(writer.run(), name="log-writer")
    try:
        yield writer
    finally:
        writer.close()
        _, unfinished = await asyncio.wait([task], timeout=2 * _LOG_PATIENCE)
        for abandoned in unfinished:
            logger.error("log_write_abandoned error=%s", writer.broken)
            abandoned.cancel()
            await asyncio.wait(unfinished)


def _frame(event: bytes) -> bytes:
    """Puts the tag and the length of field 1 before an event: an entry of `events` as it is on the wire."""
    length = len(event)
    head = bytearray(b"\x0a")
    while length >= _VARINT_MORE:
        head.append(length % _VARINT_MORE | _VARINT_MORE)
        length >>= 7
    head.append(length)
    return bytes(head) + event
