"""The event log: the Protocol, and the entries that are appended to it.

An event is stored as a *frame*: the wire bytes of one entry of `repeated ExecutionEvent events`. A response is frames
concatenated, so neither replaying nor following parses or builds a message.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple, Protocol

from runner_service.errors import UnavailableError
from runner_service.executors.protocol import Stream
from runner_service.storage.changes import ChangeSets
from runner_service.storage.execution_filter import ExecutionFilter
from runner_service.storage.execution_order import ExecutionOrder
from runner_service.storage.journal import CallResult, Journal
from runner_service.storage.outputs import Outputs
from runner_service.storage.owner_history import OwnerHistory
from runner_service.v1 import agent_runner_pb2 as runner_pb2


class LogError(UnavailableError):
    """The log cannot be opened, written or read; the message says why. Retryable."""


class StateDirError(LogError):
    """STATE_DIR cannot be a directory that this user writes to. The environment has to change."""


@dataclass(frozen=True, slots=True)
class NewExecution:
    """An accepted execution.

    `fingerprint` is a keyed hash of its request, to recognise a repeated one. `request` is what may be stored for
    resuming; None when the request has secrets, which are never stored.
    """

    execution: runner_pb2.Execution
    fingerprint: bytes
    request: runner_pb2.ExecuteAgentRequest | None = None
    values: Mapping[str, bytes] = field(default_factory=dict)
    """As of `NewValue`."""
    sealed_request: bytes | None = None
    """The encrypted request, where storage is shared; deleted when the execution ends."""

    @property
    def execution_id(self) -> str:
        """The execution."""
        return self.execution.execution_id


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event, or `count` consecutive ones concatenated; `sequence` is that of the last.

    A `tool_output` is always alone, and the last bytes of its frame are in `output` instead, to be stored only once.
    """

    execution_id: str
    sequence: int
    frame: bytes
    output: "NewOutput | None" = None
    tool_call_id: str = ""
    """Set for `tool_call_started`, which is always alone: from here on the call can have output."""
    count: int = 1


@dataclass(frozen=True, slots=True)
class NewOutput:
    """Output of a command. Outside a `NewEvent` it was written after the call ended, and is stored without an event."""

    execution_id: str
    tool_call_id: str
    stream: Stream
    data: bytes


@dataclass(frozen=True, slots=True)
class NewState:
    """A changed record of an execution, with its new state."""

    execution: runner_pb2.Execution

    @property
    def execution_id(self) -> str:
        """The execution."""
        return self.execution.execution_id


@dataclass(frozen=True, slots=True)
class NewValue:
    """A value that an adapter stores with an execution, such as a task token; None deletes it.

    Values outlive the end of the execution, and are deleted with it.
    """

    execution_id: str
    name: str
    value: bytes | None


@dataclass(frozen=True, slots=True)
class NewRun:
    """The journal's record of a run, before anything of it is checkpointed."""

    execution_id: str
    run_id: str


@dataclass(frozen=True, slots=True)
class NewCall:
    """The journal's record of a call that starts or, with `result`, has ended."""

    execution_id: str
    tool_call_id: str
    result: CallResult | None = None


@dataclass(frozen=True, slots=True)
class NewChangeSet:
    """A set of changes of files, as of `StoredChangeSet`; appended right after its event."""

    execution_id: str
    sequence: int
    data: bytes


Entry = NewExecution | NewEvent | NewOutput | NewState | NewValue | NewRun | NewCall | NewChangeSet


Notify = Callable[[int, bool, OwnerHistory], None]


class Rejection(StrEnum):
    """Why entries of an execution were not appended. They never will be: its process must stop working on it."""

    FENCED = "another process owns the execution"
    DELETED = "the execution has been deleted from the log"
    LOST = "the log has lost events that nobody has any more"


class Page(NamedTuple):
    """Concatenated frames, and the sequence of the last one."""

    frames: bytes
    last: int


class StoredExecution(NamedTuple):
    """An execution as stored, with its fingerprint and what was stored of its request."""

    execution: runner_pb2.Execution
    fingerprint: bytes
    request: runner_pb2.ExecuteAgentRequest | None = None
    sealed_request: bytes | None = None
    owners: OwnerHistory = OwnerHistory()


class ExecutionPage(NamedTuple):
    """Executions, newest first; `next_key` continues the list, 0 at its end."""

    executions: Sequence[runner_pb2.Execution]
    next_key: int


class EventLog(Outputs, Journal, ChangeSets, Protocol):
    """Stores executions, their events, outputs, journal and change sets, which are committed together.

    All methods raise LogError.

    `append` has one caller at a time; the other methods may be called concurrently.
    """

    @property
    def fingerprint_key(self) -> bytes:
        """The secret key of request fingerprints; it lives as long as the log."""

    async def append(self, entries: Sequence[Entry], owners: Mapping[str, int] = {}) -> Mapping[str, Rejection]:
        """Persists entries in order, those of one execution all or none; they survive the death of the process.

        `owners` has the owner token by execution id, for executions whose token is not 0. Returns the rejected
        executions, of which nothing was appended. When it raises, nothing was appended at all.
        """

    async def read(self, execution_id: str, after: int, max_bytes: int, *, with_output: bool = True) -> Page:
        """Reads events above `after` in order: about `max_bytes`, but at least one if there is one.

        With `with_output=False`, `tool_output` events are omitted.
        """

    async def get(self, execution_id: str) -> StoredExecution | None:
        """Reads an execution; None when it is not in the log."""

    def subscribe(self, execution_id: str, notify: Notify) -> AbstractContextManager[None]:
        """Calls `notify` in the event loop when another process has committed events.

        It is given the sequence of the newest one, whether that is `finished`, and the owners. `read` has the events.
        """

    async def find_values(self, name: str) -> Mapping[str, bytes]:
        """Returns, by execution id, every stored value of that name."""

    async def remove_values(self, name: str, execution_ids: Collection[str]) -> None:
        """Removes stored values, whichever process owns the executions; `append` does it for their owner only."""

    async def list_executions(
        self, wanted: ExecutionFilter, *, limit: int, before_key: int = 0, order: ExecutionOrder | None = None
    ) -> ExecutionPage:
        """Lists executions accepted before the one with `before_key` (0: all), newest first.

        With an `order`, `before_key` and `next_key` are positions in the sorted list.
        """

    async def unfinished(self) -> Sequence[str]:
        """Returns the executions that are PENDING or RUNNING, in this process or another."""

    async def mark_interrupted(self, execution_ids: Collection[str]) -> None:
        """Sets those executions to INTERRUPTED, unless they have ended."""

    async def stored_bytes(self, execution_id: str) -> int:
        """Returns the size of an execution's events and output; 0 when it is not in the log."""

    async def delete(self, execution_id: str) -> bool:
        """Deletes an execution with its events and outputs; False when it is not in the log. Not for active ones."""

    async def prune(self, *, max_age: float, max_bytes: int) -> int:
        """Deletes executions that ended over `max_age` seconds ago, then the oldest while the log exceeds `max_bytes`.

        Returns how many were deleted. Of executions that have not ended, only interrupted ones are deleted, by age.
        """
