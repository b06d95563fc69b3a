"""The Protocol of how many calls tenants have open over all replicas."""

from typing import Protocol


class OpenCalls(Protocol):
    """Counts the open calls of tenants. What dead replicas had does not count. All methods raise LogError."""

    async def open_call(self, tenant: str, count: int, limit: int) -> bool:
        """Counts one more open call of a tenant, of which this replica has `count`; False if it may have no more."""

    async def set_open_calls(self, tenant: str, count: int) -> None:
        """Replaces how many open calls of a tenant this replica has."""
