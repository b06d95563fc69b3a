"""The Protocol of the one queue of all replicas, of which each takes what it has room for."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from enum import Enum, auto
from typing import NamedTuple, Protocol


class Entrant(NamedTuple):
    """An execution that wants to run."""

    execution_id: str
    session_id: str
    token: int
    """That of the claim under which it is queued: whoever takes it claims it only if it is still that one."""
    is_pinned: bool
    """True if only the replica that has accepted it can run it: nobody else has its secrets."""


class QuotaOfTenant(NamedTuple):
    """How many executions of a tenant may run and wait over all replicas; None is no limit."""

    running: int | None
    queued: int | None
    weight: int


class Taken(NamedTuple):
    """An execution that this replica has taken and has to run now."""

    execution_id: str
    token: int
    waited_seconds: float


class Outcome(Enum):
    """What became of an execution that joined the queue, or was offered."""

    OK = auto()
    """It has a place, or was taken."""
    QUEUE_FULL = auto()
    QUOTA_EXCEEDED = auto()
    BEHIND = auto()
    """It waits for another one of its session."""
    GONE = auto()
    """Another replica has it."""


class QueueReply(NamedTuple):
    """What every method returns."""

    queued: int
    """How many wait, over all replicas."""
    taken: Sequence[Taken]
    outcome: Outcome = Outcome.OK
    position: int = 0
    """Of the one that was offered, among those of its tenant; 0 if it does not wait there."""


class QueueNews(NamedTuple):
    """What has changed in the queue."""

    gone: Mapping[str, str]
    """Executions that wait no more, and the replica that has each of them now; empty for none."""
    positions: Mapping[str, int]
    """New positions that are worth telling."""
    is_ready: bool
    """Whether there is something that a replica with room could take."""
    queued: int


class QueueStore(Protocol):
    """The queue, for one replica. All methods raise LogError.

    `capacity` is how many this replica may run at once; with 0 it takes nothing. With room left, each method also
    takes what is next: the replies name it.
    """

    @property
    def replica(self) -> str:
        """The name of this replica."""

    async def join(self, entrant: Entrant, quota: QuotaOfTenant, *, capacity: int, max_queued: int) -> QueueReply:
        """Takes an execution if this replica has room; else gives it a place, from which it is not taken yet."""

    async def offer(
        self, entrant: Entrant, quota: QuotaOfTenant, *, capacity: int, moves_to_end: bool = False
    ) -> QueueReply:
        """Lets any replica take an execution, whose record is in the log; it joins if it has no place."""

    async def leave(self, execution_id: str, *, capacity: int) -> QueueReply:
        """Removes an execution of this replica that has ended; the next one of its session may run."""

    async def park(self, execution_id: str, *, capacity: int) -> QueueReply:
        """Makes room for others, but not for those of the same session."""

    async def interrupt(self, execution_id: str, *, capacity: int) -> QueueReply:
        """Makes room, but keeps the place for whoever goes on with an execution."""

    async def take(self, quotas: Mapping[str, QuotaOfTenant], *, capacity: int) -> QueueReply:
        """Takes what this replica has room for, by the quotas of tenants that may have changed."""

    async def withdraw(self, execution_id: str) -> int | None:
        """Takes an execution that waits out of the queue; returns its token, None if it does not wait."""

    async def correct(
        self, running: Collection[str], waiting: Collection[str], *, capacity: int, takes_over: bool
    ) -> tuple[QueueReply, Collection[str]]:
        """Removes what has ended without leaving; returns which executions of this replica have lost their place.

        If this replica `takes_over`, what replicas without a lease were running waits again, in its old place.
        """

    async def restore(self, entrant: Entrant) -> None:
        """Gives one that runs here its place again, which a failover of the storage has lost."""

    def followed(self, observe: Callable[[QueueNews | None], None]) -> AbstractContextManager[None]:
        """Calls `observe` with each change until the context ends; with None when some may have been missed."""
