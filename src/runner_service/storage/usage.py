"""What tenants have used: tokens by days, starts of the last minute."""

from typing import Protocol


class UsageStore(Protocol):
    """Counts tokens and starts. What a method returned from survives the death of the process. Raises LogError."""

    async def add(self, tenant: str, day: str, tokens: int) -> None:
        """Adds to what a tenant has used on a day, YYYYMMDD."""

    async def total(self, tenant: str, day: str) -> int:
        """Returns what a tenant has used on a day, by all replicas."""

    async def start(self, tenant: str, limit: int) -> float:
        """Counts a start, unless a tenant has had `limit` in the last minute, in all replicas.

        Returns 0, or in how many seconds there may be another one.
        """
