"""Resumes at the start what an earlier process has left INTERRUPTED."""

import asyncio
import logging
from collections.abc import Sequence

from runner_service.errors import CallError, UnavailableError
from runner_service.executions import stored_request
from runner_service.executions.registry import Registry
from runner_service.executions.resumer import Resumer
from runner_service.identity import OwnerKey

logger = logging.getLogger(__name__)


class Recovery:
    """Belongs to the event loop."""

    def __init__(self, resumer: Resumer, registry: Registry, *, tasks: asyncio.TaskGroup) -> None:
        self._resumer = resumer
        self._registry = registry
        self._task_group = tasks
        self._waiting_for_daemon: asyncio.Task[None] | None = None

    async def resume_interrupted(self) -> None:
        """Resumes every interrupted execution that had no secrets, the oldest first; none depends on callers then.

        Those whose secrets the Stigmer daemon has follow when it answers.
        """
        by_id: list[OwnerKey] = []
        for execution in reversed(await self._registry.interrupted()):
            if stored_request.is_reference(execution.request):
                by_id.append(execution.id)
            elif error := await self._resume(execution.id):
                logger.warning("resume_postponed execution=%s reason=%s", execution.id, error)
        if by_id:
            self._waiting_for_daemon = self._task_group.create_task(self._resume_all_by_id(by_id), name="resume-by-id")

    def stop(self) -> None:
        """Stops waiting for the daemon."""
        if self._waiting_for_daemon:
            self._waiting_for_daemon.cancel()

    async def _resume_all_by_id(self, execution_ids: Sequence[OwnerKey]) -> None:
        for execution_id in execution_ids:
            while error := await self._resume(execution_id):  # noqa: ASYNC110  # nothing tells when it is possible
                await asyncio.sleep(error.retry_delay)

    async def _resume(self, execution_id: OwnerKey) -> UnavailableError | None:
        """Resumes an execution if possible; returns why it is not now, when it may be later."""
        try:
            await self._resumer.resume(execution_id)
        except UnavailableError as error:
            return error
        except CallError as error:
            logger.warning("resume_refused execution=%s reason=%s", execution_id, error)
        return None
