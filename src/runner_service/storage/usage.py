"""What tenants have used, by days."""

from typing import Protocol


class UsageStore(Protocol):
    """Counts tokens. What a method returned from survives the death of the process. Raises LogError."""

    async def add(self, tenant: str, day: str, tokens: int) -> None:
        """Adds to what a tenant has used on a day, YYYYMMDD."""

    async def total(self, tenant: str, day: str) -> int:
        """Returns what a tenant has used on a day, by all replicas."""
