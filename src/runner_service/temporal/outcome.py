"""How an execution ended that runs for an activity."""

from typing import NamedTuple

from runner_service import states
from runner_service.errors import CallError, ExecutionEnd
from runner_service.events.stream import EventStream
from runner_service.identity import bare_id
from runner_service.storage.event_log import EventLog
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

_MAX_EVENT_BYTES = 1


class Outcome(NamedTuple):
    """The record of an execution and its `finished` event, or why it was refused."""

    record: runner_pb2.Execution
    finished: event_pb2.ExecutionEvent
    refusal: CallError | ExecutionEnd | None = None


async def read_outcome(log: EventLog, stream: EventStream) -> Outcome:
    """Reads how an execution has ended. Raises LogError."""
    stored = await log.get(stream.execution_id)
    page = await log.read(stream.execution_id, stream.committed - 1, _MAX_EVENT_BYTES)
    record = stored.execution if stored else runner_pb2.Execution(execution_id=stream.execution_id)
    return Outcome(record, runner_pb2.ExecuteAgentResponse.FromString(page.frames).events[-1])


def refused(execution_id: str, reason: CallError | ExecutionEnd) -> Outcome:
    """Returns the outcome of an execution that has never started, or cannot be resumed."""
    state: states.State = states.FAILED
    retryable = False
    if isinstance(reason, ExecutionEnd):
        state, retryable = reason.state, reason.retryable
    finished = event_pb2.Finished(state=state)
    finished.error.code = code_of(reason)
    finished.error.message = reason.message
    finished.error.retryable = retryable
    event = event_pb2.ExecutionEvent(execution_id=bare_id(execution_id), finished=finished)
    event.create_time.GetCurrentTime()
    record = runner_pb2.Execution(execution_id=execution_id, state=state, error=finished.error)
    return Outcome(record, event, reason)


def code_of(reason: CallError | ExecutionEnd) -> str:
    """Returns the code of an error as it is told to callers."""
    return reason.code.name if isinstance(reason, CallError) else reason.code
