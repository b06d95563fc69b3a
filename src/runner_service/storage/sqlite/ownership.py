"""Ownership of executions in a STATE_DIR, which is locked by one process."""

from collections.abc import Collection

from runner_service.storage.ownership import Claim


class SoleOwnership:
    """Implements `Ownership` for the process that holds the lock of STATE_DIR: it owns everything in it."""

    async def claim(self, execution_id: str, *, anew: bool = False, token: int | None = None) -> Claim:
        """Implements `Ownership`: there is no other owner, and one token."""
        del anew, token
        return Claim(execution_id, 0)

    async def release(
        self, execution_id: str, *, floor: int = 0, has_ended: bool = False, hands_over: bool = False
    ) -> None:
        """Implements `Ownership`: nobody else claims it."""

    async def abandoned(self, execution_ids: Collection[str]) -> Collection[str]:
        """Implements `Ownership`. Call it before anything runs in this process."""
        return execution_ids
