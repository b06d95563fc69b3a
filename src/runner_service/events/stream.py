"""From what happened to who watches: number it, put it in the log, then show it.

`EventStream.publish` is the one way in, `EventStream.page` the one way out. Between them stands one `LogWriter` for all
executions: it takes what has gathered, commits it at once, and only then lets watchers see it.
"""

from typing import TYPE_CHECKING

from google.protobuf.message import Message

from runner_service.errors import CallError, LogUnavailableEnd, NotFoundError, UnavailableError
from runner_service.events.notifier import News
from runner_service.events.tail import Tail
from runner_service.events.writer import LogWriter, Run
from runner_service.executors.protocol import Stream
from runner_service.storage.event_log import Entry, EventLog, NewEvent, NewOutput, NewState, Page
from runner_service.storage.frames import Framer
from runner_service.telemetry import metrics
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_OUTPUT_BYTES_PER_EVENT = 256 * 1024
"""The most bytes of a command's output that one event carries."""

MAX_PAGE_BYTES = 1024 * 1024
"""About the most bytes that one response carries."""

_TAIL_BYTES = 2 * MAX_PAGE_BYTES
_FLUSH_LOOKS_EVERY = 60.0
_RUN_BYTES = 64 * 1024


class EventStream:
    """The events of one execution: whatever happens is published here, and everybody who watches reads from here.

    Belongs to the event loop. Watchers read what was committed a moment ago from memory, the rest from the log.
    """

    def __init__(
        self, execution_id: str, writer: LogWriter, log: EventLog, *, last_sequence: int = 0, finished: bool = False
    ) -> None:
        self.execution_id = execution_id
        self.last_sequence = last_sequence
        self.committed = last_sequence
        self.finished = finished
        self._published_finish = finished
        self._writer = writer
        self._log = log
        self._framer = Framer(execution_id)
        self._run: Run | None = None
        self._tail = Tail(_TAIL_BYTES)
        self._positions: dict[object, int] = {}
        self._news = News()
        self._closed_with: CallError | None = None
        self.broken: LogUnavailableEnd | None = None
        self.on_break: Callable[[LogUnavailableEnd], None] = lambda _: None

    def publish(self, event: Message, *, sub_agent_id: str = "") -> int:
        """Numbers an event, stamps it and hands it to the log; returns its sequence.

        `event` is one of the messages of `ExecutionEvent`'s oneof. Nothing is delivered before it is in the log.
        """
        self.last_sequence = sequence = self.last_sequence + 1
        frame = self._framer.frame(sequence, event, sub_agent_id)
        if type(event) is event_pb2.ToolCallStarted:  # `isinstance` takes three times as long for a message
            self._put(NewEvent(self.execution_id, sequence, frame, tool_call_id=event.tool_call_id), len(frame))
        else:
            self._put_frame(sequence, frame)
        self._published_finish = type(event) is event_pb2.Finished
        return sequence

    def publish_output(self, tool_call_id: str, stream: Stream, data: bytes, *, sub_agent_id: str = "") -> None:
        """Publishes what a command wrote, as one event or more. Await `room` after it."""
        metrics.output_written(stream, len(data))
        for start in range(0, len(data), MAX_OUTPUT_BYTES_PER_EVENT):
            self._publish_chunk(
                NewOutput(self.execution_id, tool_call_id, stream, data[start : start + MAX_OUTPUT_BYTES_PER_EVENT]),
                sub_agent_id,
            )

    def store_late_output(self, tool_call_id: str, stream: Stream, data: bytes) -> None:
        """Keeps what a command's leftovers wrote after it had ended: in its file, without an event."""
        self._put(NewOutput(self.execution_id, tool_call_id, stream, data), len(data))

    def record_state(self, execution: runner_pb2.Execution) -> None:
        """Puts the execution's changed record in the log, in the same order as its events."""
        self._put(NewState(execution), execution.ByteSize())

    async def room(self) -> None:
        """Returns at once, or as soon as the log has caught up.

        Raises:
            LogUnavailableEnd: the log cannot be written, so nothing more may happen.
        """
        if self.broken:
            raise self.broken
        if not self._writer.has_room.is_set():  # asked at every token, and nearly always there
            await self._writer.has_room.wait()

    async def flush(self) -> None:
        """Waits until everything that was published is in the log, or the log cannot be written."""
        while self.committed < self.last_sequence and not self.broken:
            await self._news.wait(_FLUSH_LOOKS_EVERY)

    async def read_output(self, tool_call_id: str, stream: Stream, offset: int, max_bytes: int) -> bytes:
        """Reads what a command wrote. Raises LogError."""
        return await self._log.read_output(self.execution_id, tool_call_id, stream, offset, max_bytes) or b""

    async def page(self, watcher: object, after: int, *, patience: float) -> Page | None:
        """The next events above `after` for `watcher`, as soon as there are any; None at the end.

        Returns an empty page when nothing happened for `patience` seconds.

        Raises:
            UnavailableError: the service stops, or its log cannot be read; attach again later.
            NotFoundError: the execution was pruned meanwhile.
        """
        self._positions[watcher] = after
        while self.committed <= after:
            if self.finished:
                return None
            if self._closed_with:
                raise self._closed_with
            if not await self._news.wait(patience):
                return Page(b"", after)
        return self._tail.page(after, MAX_PAGE_BYTES) or await self._page_from_log(after)

    def leave(self, watcher: object) -> None:
        """Forgets a watcher."""
        self._positions.pop(watcher, None)
        if not self._positions:
            self._tail.clear()

    def close(self, error: CallError) -> None:
        """Ends every watcher with `error`, once it has seen what is in the log."""
        self._closed_with = error
        self._news.spread()

    def seal(self) -> None:
        """Called by the writer when it takes what was published so far: the next event begins another entry."""
        self._run = None

    def commit(self, events: NewEvent) -> None:
        """Called by the writer, in order, for what is in the log now."""
        self.committed = last = events.sequence
        self.finished = self._published_finish and last == self.last_sequence
        if self._positions:
            self._tail.add(events)

    def announce(self) -> None:
        """Called by the writer when a batch is committed: wakes whoever waits."""
        self._tail.trim(min(self._positions.values(), default=self.committed))
        self._news.spread()

    def break_off(self, error: LogUnavailableEnd) -> None:
        """Called by the writer when the log cannot be written, also when that happens again."""
        if not self.broken:
            self.broken = error
            self.on_break(error)
        self.close(UnavailableError(error.message, retry_delay=5.0))

    def mend(self) -> None:
        """Called by the writer when the log can be written again: whoever attaches now can follow to the end."""
        self._closed_with = None

    def _put(self, entry: Entry, size: int) -> None:
        self._run = None
        self._writer.put(self, entry, size)

    def _put_frame(self, sequence: int, frame: bytes) -> None:
        """Puts an event behind those that wait already, if nothing else of this execution came in between."""
        run = self._run
        if run is None or run.size > _RUN_BYTES:
            run = self._run = Run(self.execution_id, [frame], sequence, len(frame))
            self._writer.put(self, run, len(frame))
            return
        run.frames.append(frame)
        run.last = sequence
        run.size += len(frame)
        self._writer.put_more(len(frame))

    def _publish_chunk(self, output: NewOutput, sub_agent_id: str) -> None:
        self.last_sequence = sequence = self.last_sequence + 1
        event = event_pb2.ToolOutput(tool_call_id=output.tool_call_id)
        setattr(event, output.stream, output.data)
        # Fields are written in the order of their numbers, so the bytes of the output come last.
        head = self._framer.frame(sequence, event, sub_agent_id)[: -len(output.data)]
        self._put(NewEvent(self.execution_id, sequence, head, output), len(head) + len(output.data))
        self._published_finish = False

    async def _page_from_log(self, after: int) -> Page:
        page = await self._log.read(self.execution_id, after, MAX_PAGE_BYTES)
        if not page.frames:
            raise NotFoundError(f"execution {self.execution_id} was pruned from the log")
        return page
