"""Activities of Temporal that this service has accepted and not completed yet."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, slots=True)
class OpenActivity:
    """One attempt of an activity, which is completed by its task token: by this process or a later one."""

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


class ActivityStore(Protocol):
    """Stores open activities. What a method returned from survives the death of the process. Raises LogError."""

    async def add(self, activity: OpenActivity) -> None:
        """Stores an activity, in the place of an earlier attempt."""

    async def remove(self, activity: OpenActivity) -> None:
        """Deletes an activity, unless a later attempt is stored in its place."""

    async def list_open(self) -> Sequence[OpenActivity]:
        """Lists all, the oldest first."""
