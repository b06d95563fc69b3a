"""What the log knows of an execution that was interrupted, for going on where it stopped."""

import asyncio
from dataclasses import dataclass, field

from runner_service.storage.event_log import EventLog
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

_PAGE_BYTES = 4 * 1024 * 1024


@dataclass
class Resumption:
    """How far an execution came. Messages and calls are by their ids in its events."""

    usage: event_pb2.Usage = field(default_factory=event_pb2.Usage)
    """What it had used; its limits count on from there."""
    elapsed: float = 0.0
    """How many seconds it had run."""
    unfinished_messages: dict[str, str] = field(default_factory=dict)
    """By sub-agent: the message after which that agent did nothing more. If it speaks again, that one is discarded."""
    started_calls: set[str] = field(default_factory=set)
    finished_calls: set[str] = field(default_factory=set)

    def take(self, event: event_pb2.ExecutionEvent) -> None:
        """Takes the next event."""
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
            case "usage_updated":
                self.usage.CopyFrom(event.usage_updated.usage)


async def read_resumption(log: EventLog, execution_id: str) -> Resumption:
    """Reads how far an execution came. Raises LogError."""
    resumption = Resumption()
    clock = _Clock()
    after = 0
    while (page := await log.read(execution_id, after, _PAGE_BYTES, with_output=False)).frames:
        await asyncio.to_thread(_take_page, resumption, clock, page.frames)
        after = page.last
    resumption.usage.tool_calls = len(resumption.started_calls)
    resumption.elapsed = clock.seconds
    return resumption


class _Clock:
    """Adds up the time between each `started` and the last event after it."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._last: float | None = None

    def take(self, event: event_pb2.ExecutionEvent) -> None:
        now = event.create_time.seconds + event.create_time.nanos / 1e9
        if event.HasField("started"):
            self._last = now
        elif self._last is not None:
            self.seconds += max(0.0, now - self._last)
            self._last = now


def _take_page(resumption: Resumption, clock: _Clock, frames: bytes) -> None:
    for event in runner_pb2.ExecuteAgentResponse.FromString(frames).events:
        resumption.take(event)
        clock.take(event)
