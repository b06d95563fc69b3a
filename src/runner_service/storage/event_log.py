"""Where events are kept before anyone sees them.

An event is stored as a *frame*: the bytes that one entry of `repeated ExecutionEvent events` has on the wire. So a
page of a response is frames laid end to end, and neither replaying nor following parses or builds a message.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from runner_service.errors import UnavailableError
from runner_service.executors.protocol import Stream
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

FINAL_STATES = frozenset(
    {event_pb2.STATE_SUCCEEDED, event_pb2.STATE_FAILED, event_pb2.STATE_CANCELLED, event_pb2.STATE_TIMED_OUT}
)
"""The states that an execution never leaves."""


class LogError(UnavailableError):
    """The log cannot be opened, written or read; the text says why. A caller may try again."""


@dataclass(frozen=True, slots=True)
class NewExecution:
    """An execution is accepted.

    `fingerprint` is of its request, to tell the same one from another. `request` is what can be kept of it to go on
    later, without secrets; None when it had some, and cannot go on without them.
    """

    execution: runner_pb2.Execution
    fingerprint: bytes
    request: runner_pb2.ExecuteAgentRequest | None = None


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event, or `count` of them that follow each other, laid end to end; `sequence` is of the last.

    Of a `tool_output`, which is always alone, the frame's last bytes are in `output` instead: stored once, in its file.
    """

    execution_id: str
    sequence: int
    frame: bytes
    output: "NewOutput | None" = None
    tool_call_id: str = ""
    """Set for `tool_call_started`, which is always alone: from here on the call has output to read."""
    count: int = 1


@dataclass(frozen=True, slots=True)
class NewOutput:
    """What a command wrote. Outside a `NewEvent` it came too late to be one, and goes to the file alone."""

    execution_id: str
    tool_call_id: str
    stream: Stream
    data: bytes


@dataclass(frozen=True, slots=True)
class NewState:
    """The execution's record has changed; `execution.state` says where it stands now."""

    execution: runner_pb2.Execution


Entry = NewExecution | NewEvent | NewOutput | NewState


class Page(NamedTuple):
    """Frames laid end to end, and the sequence of the last of them."""

    frames: bytes
    last: int


class StoredExecution(NamedTuple):
    """An execution as it stands in the log, with the fingerprint and what was kept of its request."""

    execution: runner_pb2.Execution
    fingerprint: bytes
    request: runner_pb2.ExecuteAgentRequest | None = None


class ExecutionPage(NamedTuple):
    """Executions, the newest first; `next_key` is where to go on, 0 at the end."""

    executions: Sequence[runner_pb2.Execution]
    next_key: int


class EventLog(Protocol):
    """Keeps executions, their events, and what their commands wrote. All methods raise LogError.

    `append` is called by one writer at a time; everything else may be called at any time by anyone.
    """

    @property
    def fingerprint_key(self) -> bytes:
        """The key that fingerprints of requests are made with: as old as the log, and secret."""

    async def append(self, entries: Sequence[Entry]) -> None:
        """Persists all entries in order, or none of them. What it returned from survives the death of the process."""

    async def read(self, execution_id: str, after: int, max_bytes: int, *, with_output: bool = True) -> Page:
        """Reads events above `after`, in order: about `max_bytes`, but at least one if there is one.

        Without output, `tool_output` events are left out.
        """

    async def get(self, execution_id: str) -> StoredExecution | None:
        """Finds an execution."""

    async def list_executions(
        self, *, limit: int, before_key: int, states: Collection["event_pb2.State.ValueType"], session_id: str
    ) -> ExecutionPage:
        """Lists executions that were accepted before the one with `before_key` (0: all), the newest first."""

    async def read_output(
        self, execution_id: str, tool_call_id: str, stream: Stream, offset: int, max_bytes: int
    ) -> bytes | None:
        """Reads what a command wrote; None when the log knows no such call."""

    async def prune(self, *, max_age: float, max_bytes: int) -> int:
        """Forgets finished executions that ended over `max_age` seconds ago, and the oldest while the log is too large.

        Returns how many were forgotten. An execution that is not in a final state is never forgotten for its size, and
        for its age only when it was interrupted and nobody came back.
        """
