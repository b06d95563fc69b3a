"""Which process may work on an execution."""

from collections.abc import Collection
from typing import NamedTuple, Protocol

from runner_service.storage.event_log import EventLog


class Claim(NamedTuple):
    """The right to work on an execution. `token` rises with each owner; writes with an earlier token are rejected."""

    execution_id: str
    token: int


class Ownership(Protocol):
    """Decides which process works on an execution when several share its storage. Raises LogError."""

    async def claim(self, execution_id: str) -> Claim | None:
        """Makes this process the owner, also before the execution exists.

        Returns None while another process is the owner, and the same claim while this one is.
        """

    async def release(self, execution_id: str) -> None:
        """Gives an execution up, so that another process can claim it at once."""

    async def abandoned(self, execution_ids: Collection[str]) -> Collection[str]:
        """Returns those that no running process owns."""


async def interrupt_abandoned(log: EventLog, ownership: Ownership) -> None:
    """Marks executions whose process is gone as INTERRUPTED, so that they can be resumed. Raises LogError."""
    if unfinished := await log.unfinished():
        await log.mark_interrupted(await ownership.abandoned(unfinished))
