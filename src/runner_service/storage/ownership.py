"""Which process may work on an execution."""

from collections.abc import Collection, Mapping, Sequence
from contextvars import ContextVar
from typing import NamedTuple, Protocol

from runner_service.storage.event_log import EventLog, LogError
from runner_service.storage.open_calls import OpenCalls
from runner_service.storage.shared_queue import QueueStore

owner_token: ContextVar[int] = ContextVar("owner_token", default=0)
"""The token of the claim that the current task works under, for writes that do not name it."""


class UnsuitableStorageError(LogError):
    """The storage is one that must not hold executions; the text says what to do."""


class Claim(NamedTuple):
    """The right to work on an execution. `token` rises with each owner; writes with an earlier token are rejected."""

    execution_id: str
    token: int


class Ownership(Protocol):
    """Decides which process works on an execution when several share its storage. Raises LogError."""

    async def claim(self, execution_id: str, *, anew: bool = False, token: int | None = None) -> Claim | None:
        """Makes this process the owner, also before the execution exists.

        Returns None while another process is the owner, and the same claim while this one is, unless `anew`. With a
        `token`, whoever is the owner loses it, if its token is that one; else None is returned.
        """

    async def release(
        self, execution_id: str, *, floor: int = 0, has_ended: bool = False, hands_over: bool = False
    ) -> None:
        """Gives an execution up, so that another process can claim it at once, with a token of at least `floor`.

        One that `has_ended` is kept if the storage does not say so: its end is lost, and the owner will go on with it.
        If this process `hands_over`, others are offered to go on with it, also if it dies meanwhile.
        """

    async def abandoned(self, execution_ids: Collection[str]) -> Collection[str]:
        """Returns those that no running process owns."""


class Letter(NamedTuple):
    """What the storage says about an execution of this replica."""

    is_owner: bool
    """False once another replica has claimed it."""
    cancel_reason: str | None
    """Set when another replica was asked to cancel it."""
    disconnect_policy: int
    """The last one that a caller asked for at any replica; 0 when none did."""
    has_callers: bool
    """Whether another replica has had callers of it a moment ago."""
    decisions: Sequence[bytes]
    """The encoded SubmitApprovalRequests that other replicas were given."""


class Replicas(Protocol):
    """The replicas of a service that share its storage. All methods raise LogError."""

    @property
    def lease_seconds(self) -> float:
        """How long a replica may be silent before the others take over what it owns."""

    @property
    def name(self) -> str:
        """The name of this replica, another one with each start."""

    @property
    def queue(self) -> QueueStore:
        """The queue of all replicas."""

    @property
    def open_calls(self) -> OpenCalls:
        """How many calls tenants have open."""

    @property
    def is_replicated(self) -> bool:
        """Whether at the last beat as many copies of the storage were up to date as are required."""

    async def reach(self) -> None:
        """Checks that the storage answers, and is suitable. Raises UnsuitableStorageError."""

    async def beat(self) -> Sequence[str]:
        """Renews the lease of this replica, and returns the replicas whose lease is over."""

    async def leave(self) -> None:
        """Ends the lease of this replica."""

    async def report(self, report: bytes) -> None:
        """Shows what this replica does to the others, in place of its last report."""

    async def reports(self) -> Mapping[str, bytes]:
        """Returns the last reports of the replicas that have a lease, by their names."""

    async def owned_by(self, replica: str = "") -> Sequence[str]:
        """Returns what a replica, or this one, may own."""

    async def forget(self, replica: str, execution_id: str = "") -> None:
        """Removes an execution from what a replica, or this one, may own; or a dead replica itself."""

    async def handed_over(self) -> Sequence[str]:
        """Takes the executions that were handed over. This replica may own them from here on, also if it dies."""

    async def attend(self, execution_ids: Collection[str]) -> None:
        """Shows the owners of executions that this replica has callers of them, for `lease_seconds`."""

    async def set_disconnect_policy(self, execution_id: str, policy: int) -> None:
        """Tells the owner of an execution what a caller wants to happen when it leaves."""

    async def cancel(self, execution_id: str, reason: str) -> None:
        """Asks the owner of an execution, whoever it is, to cancel it."""

    async def decide(self, execution_id: str, decision: bytes) -> None:
        """Passes an encoded SubmitApprovalRequest on to the owner of an execution, whoever it is."""

    async def letters(self, tokens: Mapping[str, int]) -> Mapping[str, Letter]:
        """Reads what there is for executions that this replica works on, by their tokens."""


async def interrupt_abandoned(log: EventLog, ownership: Ownership) -> None:
    """Marks executions whose process is gone as INTERRUPTED, so that they can be resumed. Raises LogError."""
    if unfinished := await log.unfinished():
        await log.mark_interrupted(await ownership.abandoned(unfinished))
