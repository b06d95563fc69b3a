"""The event stream of an execution: numbers events, hands them to the log, and delivers what is committed.

`EventStream.publish` is the one way in, for text and output by a variant, `EventStream.page` the one way out. The
`LogWriter` between them serves all executions: it commits everything pending in one batch, and only then are watchers
notified.
"""

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from google.protobuf.message import Message

from runner_service.errors import CallError, LogUnavailableEnd, NotFoundError, UnavailableError
from runner_service.events.notifier import Notifier
from runner_service.events.positions import Positions
from runner_service.events.quota import DiskQuota
from runner_service.events.tail import Tail
from runner_service.events.writer import EventRun, LogWriter
from runner_service.executors.protocol import Stream
from runner_service.identity import bare_id
from runner_service.storage.event_log import Entry, EventLog, NewEvent, NewOutput, NewState, NewValue, Page, Rejection
from runner_service.storage.frames import Framer, TextFramer, TextKind
from runner_service.storage.owner_history import OwnerHistory
from runner_service.telemetry import metrics
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

logger = logging.getLogger(__name__)

MAX_OUTPUT_BYTES_PER_EVENT = 256 * 1024
"""The largest `tool_output` event, without its envelope."""

MAX_PAGE_BYTES = 1024 * 1024
"""The approximate size limit of a response."""

_MAX_TAIL_BYTES = 2 * MAX_PAGE_BYTES
_FLUSH_POLL_INTERVAL_SECONDS = 60.0
_MAX_RUN_BYTES = 64 * 1024
_NO_VALUE = ""
"""The name of a value that nobody stores: to remove it changes nothing."""
_ToolCallStarted, _Finished = event_pb2.ToolCallStarted, event_pb2.Finished


class EventStream:
    """The events of one execution, from publisher to watchers.

    Belongs to the event loop. Watchers read recently committed events from memory, older ones from the log.
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
        self._framer = Framer(bare_id(execution_id))
        self._is_remote = False
        self._followers = 0
        self._subscription = ExitStack()
        self._is_subscribed = False
        self.is_fenced = False
        """Set once another process has taken the execution over."""
        self.on_fenced: Callable[[], bool] = lambda: False
        """Returns whether watchers follow the execution to where it is now."""
        self.owner_token = 0
        """As of `LogSubscriber`."""
        self._enqueued_entries = self._committed_entries = 0
        self._run: EventRun | None = None
        self._tail = Tail(_MAX_TAIL_BYTES)
        self.positions = Positions()
        """Those of its watchers."""
        self._notifier = Notifier()
        self._closed_with: CallError | None = None
        self.quota = DiskQuota()
        self.broken: LogUnavailableEnd | None = None
        self.on_break: Callable[[LogUnavailableEnd], None] = lambda _: None

    def publish(self, event: Message, *, sub_agent_id: str = "") -> int:
        """Numbers and timestamps an event, queues it for the log, and returns its sequence.

        `event` is one of the messages of `ExecutionEvent`'s oneof. Nothing is delivered before it is committed.
        """
        self.last_sequence = sequence = self.last_sequence + 1
        frame = self._framer.frame(sequence, event, sub_agent_id)
        if type(event) is _ToolCallStarted:  # `isinstance` takes three times as long for a message
            self._enqueue(NewEvent(self.execution_id, sequence, frame, tool_call_id=event.tool_call_id), len(frame))
        else:
            self._enqueue_frame(sequence, frame)
        self._published_finish = type(event) is _Finished
        return sequence

    def text_framer(self, kind: TextKind, message_id: str, *, sub_agent_id: str = "") -> TextFramer:
        """Returns what `publish_text` encodes the pieces of one text with."""
        return TextFramer(bare_id(self.execution_id), kind, message_id, sub_agent_id)

    def publish_text(self, framer: TextFramer, text: str) -> int:
        """Publishes the next piece of a text, as `publish` would: this is called for every token."""
        sequence = self.last_sequence + 1
        self._enqueue_frame(sequence, framer.frame(sequence, text))
        self.last_sequence = sequence
        self._published_finish = False
        return sequence

    def publish_output(self, tool_call_id: str, stream: Stream, data: bytes, *, sub_agent_id: str = "") -> None:
        """Publishes output of a command, as one event or more. Await `wait_for_capacity` after it."""
        metrics.output_written(stream, len(data))
        for start in range(0, len(data), MAX_OUTPUT_BYTES_PER_EVENT):
            self._publish_chunk(
                NewOutput(self.execution_id, tool_call_id, stream, data[start : start + MAX_OUTPUT_BYTES_PER_EVENT]),
                sub_agent_id,
            )

    def store_late_output(self, tool_call_id: str, stream: Stream, data: bytes) -> None:
        """Stores what a command's orphaned processes wrote after it ended: without an event."""
        self._enqueue(NewOutput(self.execution_id, tool_call_id, stream, data), len(data))

    def record_state(self, execution: runner_pb2.Execution) -> None:
        """Queues the execution's changed record for the log."""
        self.append(NewState(execution), execution.ByteSize())

    def append(self, entry: Entry, size: int) -> None:
        """Queues an entry of about `size` bytes that is not an event for the log, in order with the events."""
        self._enqueue(entry, size)

    def store_value(self, name: str, value: bytes) -> None:
        """Queues a value to be stored with the execution, in order with its events."""
        self._enqueue(NewValue(self.execution_id, name, value), len(value))

    async def wait_for_capacity(self) -> None:
        """Waits until the log writer's backlog is below its bound.

        Raises:
            LogUnavailableEnd: the log cannot be written, so the execution must end.
        """
        if self.broken:
            raise self.broken
        if not self._writer.has_capacity.is_set():  # called for every token, and nearly always set
            await self._writer.has_capacity.wait()

    @property
    def is_flushed(self) -> bool:
        """True when the log has everything that was published or appended."""
        return self._committed_entries == self._enqueued_entries

    async def flush(self) -> None:
        """Waits until everything published or appended so far is committed, or the log cannot be written."""
        last = self._enqueued_entries
        while self._committed_entries < last and not self.broken:
            await self._notifier.wait(_FLUSH_POLL_INTERVAL_SECONDS)

    async def read_output(self, tool_call_id: str, stream: Stream, offset: int, max_bytes: int) -> bytes:
        """Reads stored output of a command. Raises LogError."""
        return await self._log.read_output(self.execution_id, tool_call_id, stream, offset, max_bytes) or b""

    async def page(
        self,
        watcher: object,
        after: int,
        *,
        timeout_seconds: float,
        max_bytes: Callable[[], int] = lambda: MAX_PAGE_BYTES,
    ) -> Page | None:
        """Waits for events above `after` and returns them for `watcher`; None at the end of the stream.

        Returns an empty page after `timeout_seconds` without an event. Once there are events, `max_bytes` is asked for
        the approximate size limit; one event is always returned.

        Raises:
            UnavailableError: the service is stopping, or its log cannot be read; attach again later.
            NotFoundError: the execution has been pruned.
            LogWentBackError: the log has lost events above `after` or before.
        """
        self.positions.set(watcher, after)
        while self.committed <= after:
            if self.finished:
                return None
            if self._closed_with:
                raise self._closed_with
            if not await self._notifier.wait(timeout_seconds):
                return Page(b"", after)
            self.positions.set(watcher, after)
        changes, size = self.positions.changes, max_bytes()
        page = self._tail.page(after, size) or await self._page_from_log(after, size)
        if changes != self.positions.changes:  # what was read may be what the log has lost
            return Page(b"", after)
        self.positions.set(watcher, page.last)
        return page

    @property
    def is_remote(self) -> bool:
        """True while this process does not publish these events: another one may."""
        return self._is_remote

    @is_remote.setter
    def is_remote(self, is_remote: bool) -> None:
        if is_remote == self._is_remote:  # watchers that are about to read the end find it in the tail
            return
        self._is_remote = is_remote
        self._tail.clear()  # it has what this process publishes
        self._follow_if_remote()

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Delivers what another process publishes until the context ends, while `is_remote`."""
        self._followers += 1
        try:
            self._follow_if_remote()
            yield
        finally:
            self._followers -= 1
            self._follow_if_remote()

    def _follow_if_remote(self) -> None:
        follows = self._is_remote and self._followers > 0
        if follows and not self._is_subscribed:
            self._subscription.enter_context(self._log.subscribe(self.execution_id, self.observe))
        elif self._is_subscribed and not follows:
            self._subscription.close()
        self._is_subscribed = follows

    def take_over(self, token: int, last_sequence: int, owners: OwnerHistory) -> None:
        """Makes this process the publisher, which continues after `last_sequence`. `owners` includes it."""
        self.owner_token = token
        if self.is_remote:
            self.positions.observe(owners, self.committed)
            self.is_remote = False
            self.committed = self.last_sequence = last_sequence
            self._notifier.notify_all()

    def observe(self, last_sequence: int, finished: bool, owners: OwnerHistory) -> None:  # a callback
        """Shows watchers what another process has committed."""
        if not self.is_remote:
            return
        before, self.committed = self.committed, self.positions.observe(owners, self.committed)
        if last_sequence > self.committed or finished > self.finished or self.committed < before:
            self.committed = self.last_sequence = max(last_sequence, self.committed)
            self.finished = finished
            self._notifier.notify_all()

    async def wait_finished(self) -> None:
        """Waits until `finished` is committed. Raises UnavailableError as `page` does."""
        while not self.finished:
            if self._closed_with:
                raise self._closed_with
            await self._notifier.wait(_FLUSH_POLL_INTERVAL_SECONDS)

    def remove_watcher(self, watcher: object) -> None:
        """Removes a watcher."""
        self.positions.remove(watcher)
        if not self.positions:
            self._tail.clear()

    def close(self, error: CallError) -> None:
        """Ends every watcher with `error` once it has read everything committed."""
        self._closed_with = error
        self._notifier.notify_all()

    def close_run(self) -> None:
        """Implements `LogSubscriber`."""
        self._run = None

    def on_committed(self, entry: Entry) -> None:
        """Implements `LogSubscriber`."""
        self._committed_entries += 1
        if not isinstance(entry, NewEvent) or self._is_remote:  # another process may have committed more since
            return
        self.committed = last = entry.sequence
        self.finished = self._published_finish and last == self.last_sequence
        if self.positions:
            self._tail.add(entry)

    def on_rejected(self, rejection: Rejection) -> None:
        """Implements `LogSubscriber`: the execution ends here, without a trace in the log."""
        self._committed_entries += 1
        if rejection is Rejection.FENCED:
            if not self.is_remote:
                self.fence()
            return
        if not self.broken:
            logger.warning("events_rejected execution=%s reason=%s", self.execution_id, rejection.name)
        self.fail(LogUnavailableEnd(f"its events cannot be stored: {rejection}"))

    def fence(self) -> None:
        """Ends the work of this process: another one has taken the execution over, and its watchers go there."""
        if not self.is_fenced and not self.on_fenced():
            self.is_fenced = True
            logger.warning("execution_taken_over execution=%s", self.execution_id)
            self.broken = LogUnavailableEnd(f"its events cannot be stored: {Rejection.FENCED}")
            self.close(UnavailableError("another replica has taken the execution over; attach again", retry_delay=0.1))

    def wake_watchers(self) -> None:
        """Implements `LogSubscriber`."""
        least = self.positions.least
        self._tail.trim(self.committed if least is None else least)
        self._notifier.notify_all()

    def fail(self, error: LogUnavailableEnd) -> None:
        """Implements `LogSubscriber`."""
        if not self.broken:
            self.broken = error
            self.on_break(error)
        self.close(UnavailableError(error.message, retry_delay=5.0))

    def recover(self) -> None:
        """Implements `LogSubscriber`: watchers that attach from now on can follow to the end."""
        self._closed_with = None

    def _enqueue(self, entry: Entry, size: int) -> None:
        self._run = None
        self._enqueued_entries += 1
        self._writer.enqueue(self, entry, size)
        if isinstance(entry, NewEvent | NewOutput):
            self.quota.count(size)

    def _enqueue_frame(self, sequence: int, frame: bytes) -> None:
        """Appends an event to the current run, or starts one."""
        size = len(frame)
        self.quota.count(size)
        run = self._run
        if run is None or run.size > _MAX_RUN_BYTES:
            run = self._run = EventRun(self.execution_id, [frame], sequence, size)
            self._enqueued_entries += 1
            self._writer.enqueue(self, run, size)
            return
        run.frames.append(frame)
        run.last = sequence
        run.size += size
        self._writer.add_pending_bytes(size)

    def _publish_chunk(self, output: NewOutput, sub_agent_id: str) -> None:
        self.last_sequence = sequence = self.last_sequence + 1
        event = event_pb2.ToolOutput(tool_call_id=output.tool_call_id)
        setattr(event, output.stream, output.data)
        # Fields are written in the order of their numbers, so the bytes of the output come last.
        head = self._framer.frame(sequence, event, sub_agent_id)[: -len(output.data)]
        self._enqueue(NewEvent(self.execution_id, sequence, head, output), len(head) + len(output.data))
        self._published_finish = False

    async def _page_from_log(self, after: int, max_bytes: int) -> Page:
        announced = self.committed
        page = await self._log.read(self.execution_id, after, max_bytes)
        if not page.frames and (stored := await self._log.get(self.execution_id)):
            if not self.is_remote:
                await self._restore_lost()
            elif self.committed == announced:  # a fenced owner may have announced what its successor has yet to write
                self.committed = stored.execution.last_sequence
            if self.committed <= after:
                return page
            page = await self._log.read(self.execution_id, after, max_bytes)
        if not page.frames:
            raise NotFoundError(f"execution {bare_id(self.execution_id)} was pruned from the log")
        return page

    async def _restore_lost(self) -> None:
        """Lets the log have again what a failover has lost: with the next entry it is appended, whatever that is."""
        self.append(NewValue(self.execution_id, _NO_VALUE, None), 0)
        await self.flush()
        if self._closed_with:
            raise self._closed_with
