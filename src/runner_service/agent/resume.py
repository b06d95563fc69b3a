"""Restores the progress of an interrupted execution from its events."""

import asyncio
from dataclasses import dataclass, field

from runner_service.storage.event_log import EventLog
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

_PAGE_BYTES = 4 * 1024 * 1024


@dataclass
class Resumption:
    """The progress of an execution. Messages and calls are named by their ids in events."""

    usage: event_pb2.Usage = field(default_factory=event_pb2.Usage)
    """Its usage so far, which counts against its limits."""
    cost: event_pb2.Cost = field(default_factory=event_pb2.Cost)
    """Its cost so far."""
    elapsed: float = 0.0
    """Seconds that it has run."""
    unfinished_messages: dict[str, str] = field(default_factory=dict)
    """By sub-agent: its last message, if no call followed. It is discarded when the agent's model is called again."""
    started_calls: set[str] = field(default_factory=set)
    finished_calls: set[str] = field(default_factory=set)
    approval_events: list[event_pb2.ExecutionEvent] = field(default_factory=list)

    def add_event(self, event: event_pb2.ExecutionEvent) -> None:
        """Applies the next event."""
        match event.WhichOneof("event"):
            case "text_delta" | "reasoning_delta" | "message_finished" as kind:
                self.unfinished_messages[event.sub_agent_id] = getattr(event, kind).message_id
            case "message_discarded":
                self.unfinished_messages.pop(event.sub_agent_id, None)
            case "tool_call_started":
                self.unfinished_messages.pop(event.sub_agent_id, None)
                self.started_calls.add(event.tool_call_started.tool_call_id)
            case "tool_call_finished":
                self.finished_calls.add(event.tool_call_finished.tool_call_id)
            case "approval_requested":
                self.unfinished_messages.pop(event.sub_agent_id, None)
                self.approval_events.append(event)
            case "approval_decided":
                self.approval_events.append(event)
            case "usage_updated":
                self.usage.CopyFrom(event.usage_updated.usage)
                self.cost.CopyFrom(event.usage_updated.cost)


async def read_resumption(log: EventLog, execution_id: str) -> Resumption:
    """Reads the progress of an execution. Raises LogError."""
    resumption = Resumption()
    running_time = _RunningTime()
    after = 0
    while (page := await log.read(execution_id, after, _PAGE_BYTES, with_output=False)).frames:
        await asyncio.to_thread(_add_page, resumption, running_time, page.frames)
        after = page.last
    resumption.usage.tool_calls = len(resumption.started_calls)
    stored = await log.get(execution_id)
    running_time.end(stored.execution.last_sequence if stored else after)
    for sequence in running_time.unread_ends:
        page = await log.read(execution_id, sequence - 1, 1)
        running_time.add_end(sequence, page.frames)
    resumption.elapsed = running_time.seconds
    return resumption


class _RunningTime:
    """Sums the time between each `started` and the last event after it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.unread_ends: dict[int, float] = {}
        """Sequences of last events that are output, which is not read, with the time of the last event that is."""
        self._last: float | None = None
        self._sequence = 0

    def add_event(self, event: event_pb2.ExecutionEvent) -> None:
        now = _time_of(event)
        if event.HasField("started"):
            self.end(event.sequence - 1)
            self._last = now
        elif self._last is not None and not event.HasField("approval_decided"):  # it may have been parked before
            self.seconds += max(0.0, now - self._last)
            self._last = now
        self._sequence = event.sequence

    def end(self, last_sequence: int) -> None:
        """The run ends with this event."""
        if self._last is not None and last_sequence > self._sequence:
            self.unread_ends[last_sequence] = self._last

    def add_end(self, sequence: int, frames: bytes) -> None:
        """Adds the time until a last event, which `frames` begins with."""
        for event in runner_pb2.ExecuteAgentResponse.FromString(frames).events[:1]:
            self.seconds += max(0.0, _time_of(event) - self.unread_ends[sequence])


def _time_of(event: event_pb2.ExecutionEvent) -> float:
    return event.create_time.seconds + event.create_time.nanos / 1e9


def _add_page(resumption: Resumption, running_time: _RunningTime, frames: bytes) -> None:
    for event in runner_pb2.ExecuteAgentResponse.FromString(frames).events:
        resumption.add_event(event)
        running_time.add_event(event)
