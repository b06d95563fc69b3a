"""The journal of one execution's tool calls, with their results as messages."""

from typing import NamedTuple
from uuid import uuid4

from langchain_core.messages import ToolMessage
from langgraph.checkpoint.serde.base import SerializerProtocol

from runner_service.events.stream import EventStream
from runner_service.storage import journal as storage
from runner_service.storage.event_log import NewCall, NewRun
from runner_service.v1 import execution_event_pb2 as event_pb2


class CallEnd(NamedTuple):
    """How a call ended: the message for the model, and the event for watchers."""

    message: ToolMessage
    event: event_pb2.ToolCallFinished


class EarlierCall(NamedTuple):
    """A call that an earlier process started. `end` is None when it did not end there: its effects are unknown."""

    end: CallEnd | None


class Journal:
    """Reads the stored journal, and writes it through the event stream, in order with the events."""

    def __init__(self, events: EventStream, stored: storage.Journal, serializer: SerializerProtocol) -> None:
        self._events = events
        self._stored = stored
        self._serializer = serializer

    async def begin_run(self, *, resumes: bool) -> str:
        """Returns the run id, which is new unless an earlier process has begun the run. Raises as `_flush` does."""
        execution_id = self._events.execution_id
        if resumes and (known := await self._stored.run_id(execution_id)):
            return known
        run_id = f"{execution_id}-{uuid4().hex}"
        self._events.append(NewRun(execution_id, run_id), len(run_id))
        await self._flush()
        return run_id

    async def find_call(self, tool_call_id: str) -> EarlierCall | None:
        """Looks up a call of an earlier process; None when it never started. Raises LogError."""
        call = await self._stored.find_call(self._events.execution_id, tool_call_id)
        if call is None or call.result is None:
            return EarlierCall(None) if call else None
        message = self._serializer.loads_typed((call.result.message_type, call.result.message))
        return EarlierCall(CallEnd(message, event_pb2.ToolCallFinished.FromString(call.result.event)))

    async def record_call_start(self, tool_call_id: str) -> None:
        """Returns when the log has it that the call is about to run. Raises as `_flush` does."""
        self._events.append(NewCall(self._events.execution_id, tool_call_id), len(tool_call_id))
        await self._flush()

    def record_call_end(self, tool_call_id: str, end: CallEnd) -> None:
        """Records how a call ended, to be committed with the `tool_call_finished` that is published next."""
        result = storage.CallResult(*self._serializer.dumps_typed(end.message), end.event.SerializeToString())
        entry = NewCall(self._events.execution_id, tool_call_id, result)
        self._events.append(entry, len(result.message) + len(result.event))

    async def _flush(self) -> None:
        """Waits until what was appended is committed. Raises LogUnavailableEnd when the log cannot be written."""
        await self._events.flush()
        if self._events.broken:
            raise self._events.broken
