"""Which executions to list."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from runner_service.identity import ANY_TENANT, NO_KEY, OwnerKey, bare_id
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2


@dataclass(frozen=True, slots=True)
class ExecutionFilter:
    """Conditions that all must hold; one that is empty or None always does."""

    states: Sequence["event_pb2.State.ValueType"] = ()
    session_id: OwnerKey = NO_KEY
    labels: Mapping[str, str] = field(default_factory=dict)
    """All of these labels, with these values."""
    created_after: int | None = None
    """Nanoseconds since the epoch; at this time or later."""
    created_before: int | None = None
    """Nanoseconds since the epoch; earlier than this."""
    tenant: str = ANY_TENANT
    name: str = ""
    """What the id or the agent's name contains, whatever the case."""

    @property
    def needs_record(self) -> bool:
        """Whether a record has to be read to know that it matches: labels, times and names have no column."""
        return bool(self.labels or self.name) or self.created_after is not None or self.created_before is not None

    def matches_record(self, record: bytes) -> bool:
        """Tells whether a serialized execution has the labels and the name, and was created in time."""
        execution = runner_pb2.Execution.FromString(record)
        created = execution.create_time.ToNanoseconds()
        return (
            (self.created_after is None or created >= self.created_after)
            and (self.created_before is None or created < self.created_before)
            and self._matches_name(execution)
            and all(execution.labels.get(key) == value for key, value in self.labels.items())
        )

    def _matches_name(self, execution: runner_pb2.Execution) -> bool:
        wanted = self.name.casefold()
        return wanted in bare_id(execution.execution_id).casefold() or wanted in execution.agent_name.casefold()
