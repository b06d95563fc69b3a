"""Which process may work on an execution."""

from collections.abc import Collection
from typing import Protocol

from runner_service.storage.event_log import EventLog


class Ownership(Protocol):
    """Decides which process works on an execution when several share its storage. Raises LogError."""

    async def claim(self, execution_id: str) -> int | None:
        """Makes this process the owner and returns its token, which rises with each owner.

        Returns None while another process owns the execution. Writes with the token of an earlier owner are refused.
        """

    async def release(self, execution_id: str) -> None:
        """Gives an execution up, so that another process can claim it at once."""

    async def abandoned(self, execution_ids: Collection[str]) -> Collection[str]:
        """Returns those that no running process owns."""


async def interrupt_abandoned(log: EventLog, ownership: Ownership) -> None:
    """Marks executions whose process is gone as INTERRUPTED, so that they can be resumed. Raises LogError."""
    if unfinished := await log.unfinished():
        await log.mark_interrupted(await ownership.abandoned(unfinished))
