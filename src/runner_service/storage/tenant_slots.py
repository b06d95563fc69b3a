"""The Protocol of what tenants have queued, running and open over all replicas."""

from collections.abc import Mapping
from typing import Protocol


class TenantSlots(Protocol):
    """Counts the executions of tenants that are queued and running in any replica, and their open calls.

    All methods raise LogError.

    What dead replicas had does not count.
    """

    async def join(
        self, execution_id: str, session_id: str, *, running: int | None, queued: int | None, has_room: bool
    ) -> bool:
        """Counts an execution as queued; False if its tenant has as many queued as it may, and it would have to wait.

        Args:
            execution_id: which one.
            session_id: its session; empty for none. It has to wait behind others of it.
            running: how many its tenant may have running; None is no limit.
            queued: the same of those that wait.
            has_room: whether this replica could run it at once.
        """

    async def admit(self, execution_id: str, *, running: int | None) -> bool:
        """Counts an execution as running; else, if its tenant has as many running as it may, as queued."""

    async def leave(self, execution_id: str) -> None:
        """Counts an execution no more."""

    async def open_call(self, tenant: str, count: int, limit: int) -> bool:
        """Counts one more open call of a tenant, of which this replica has `count`; False if it may have no more."""

    async def set_open_calls(self, tenant: str, count: int) -> None:
        """Replaces how many open calls of a tenant this replica has."""

    async def correct(self, tenant: str, executions: Mapping[str, bool]) -> None:
        """Replaces what is counted of this replica: whether each execution is running."""
