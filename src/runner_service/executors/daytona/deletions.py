"""Deletions of sandboxes that nobody waits for."""

import asyncio
import logging

from runner_service.executors.daytona.manager import SandboxManager
from runner_service.executors.protocol import SandboxError

logger = logging.getLogger(__name__)


class Deletions:
    """Deletes sandboxes in the background, one task each. One per process."""

    def __init__(self, manager: SandboxManager) -> None:
        self._manager = manager
        self._tasks: dict[asyncio.Task[None], str] = {}

    def begin(self, reference: str) -> asyncio.Task[None]:
        """Begins to delete a sandbox, by its name or id. The task raises nothing."""
        deletion = asyncio.create_task(self._delete(reference))
        self._tasks[deletion] = reference
        deletion.add_done_callback(self._tasks.pop)
        return deletion

    async def finish(self) -> None:
        """Gives them `close_timeout`. The sandboxes that are left then are reaped when their leases end."""
        if not self._tasks:
            return
        _, left = await asyncio.wait(self._tasks, timeout=self._manager.config.close_timeout)
        for each in left:
            logger.warning("sandbox_not_deleted name=%s consequence=reaped_when_its_lease_ends", self._tasks[each])
            each.cancel()
        if left:
            await asyncio.wait(left)

    async def _delete(self, reference: str) -> None:
        try:
            await self._manager.delete(reference)
        except SandboxError as error:
            logger.warning("sandbox_not_deleted name=%s reason=%s", reference, error)
