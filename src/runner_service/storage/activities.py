"""Activities of Temporal that this service has accepted and not completed yet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

_PREFIX = "runner-service-"


@dataclass(frozen=True, slots=True)
class OpenActivity:
    """One attempt of an activity, which is completed by its task token: by this process or a later one.

    Without a token it is completed by its ids.
    """

    workflow_id: str
    run_id: str
    activity_id: str
    activity_type: str
    task_token: bytes
    execution_id: str
    deadline: float
    """Unix time at which the execution must have ended, so that the activity can be completed in time."""
    heartbeat_interval_seconds: float
    request: bytes = b""
    """The encoded ExecuteAgentRequest, if it came with the activity and has no secrets."""
    result_encoding: str = ""
    """How the caller wants its result, if it may choose."""


class WorkerIdentity(NamedTuple):
    """How Temporal names the worker of one process of this service."""

    name: str
    """The same for all processes that use this store one after another."""
    start: int
    """Counts these processes."""

    def __str__(self) -> str:
        """Returns it as Temporal shows it."""
        return f"{_PREFIX}{self.name}/{self.start}"

    def is_later_than(self, other: str) -> bool:
        """Tells whether another identity is that of an earlier process."""
        prefix, _, start = other.rpartition("/")
        return f"{prefix}/{self.start}" == str(self) and start.isdecimal() and int(start) < self.start


def replica_of(worker: str) -> str:
    """Returns the name in a worker identity; empty when it is not one of this service."""
    prefix, _, start = worker.rpartition("/")
    return prefix.removeprefix(_PREFIX) if prefix.startswith(_PREFIX) and start.isdecimal() else ""


class AnnouncedWorkflow(NamedTuple):
    """A workflow that will hand over an activity."""

    workflow_id: str
    run_id: str


class ActivityStore(Protocol):
    """Stores open activities. What a method returned from survives the death of the process. Raises LogError."""

    is_shared: bool
    """Whether several processes use it at once, of which one goes on with what another leaves."""

    async def add(self, activity: OpenActivity) -> None:
        """Stores an activity, in the place of an earlier attempt and of the announcement of its workflow.

        This process follows it from here on.
        """

    async def remove(self, activity: OpenActivity) -> None:
        """Deletes an activity, unless a later attempt is stored in its place."""

    async def list_open(self) -> Sequence[OpenActivity]:
        """Lists those that no running process follows, the oldest first. At the start only, unless `is_shared`."""

    async def new_identity(self) -> WorkerIdentity:
        """Returns the identity of this process."""

    async def has_ended(self, worker: str) -> bool:
        """Tells whether a worker identity, as Temporal shows it, is that of a process that has ended."""

    async def announce(self, workflow: AnnouncedWorkflow) -> None:
        """Stores that a workflow will hand over an activity."""

    async def withdraw(self, workflow: AnnouncedWorkflow) -> None:
        """Deletes an announcement."""

    async def list_announced(self) -> Sequence[AnnouncedWorkflow]:
        """Lists the workflows that have not handed over an activity yet."""
