"""Deletes executions and sessions, with all that is kept of them."""

import logging

from runner_service import states
from runner_service.errors import NotFoundError, PreconditionError
from runner_service.executions.execution import Execution
from runner_service.executions.registry import Registry
from runner_service.executions.run_context import RunContext
from runner_service.executors.protocol import SandboxSpec
from runner_service.identity import OwnerKey, bare_id
from runner_service.storage.execution_filter import ExecutionFilter

logger = logging.getLogger(__name__)

_MAX_SESSION_EXECUTIONS = 10_000


class Deletion:
    """Deletes from the log, the checkpoints and the executor, in this order: what is left over is found again later."""

    def __init__(self, context: RunContext, registry: Registry) -> None:
        self._log = context.log
        self._registry = registry
        self._context = context

    async def delete_execution(self, execution_id: OwnerKey) -> None:
        """Deletes an execution; what a session shares stays with the session.

        Raises:
            NotFoundError: it is not in the log.
            PreconditionError: it has not ended, or somebody follows it.
            LogError, SandboxError: it could not be deleted.
        """
        execution = await self._registry.find(execution_id)
        self._require_deletable(execution)
        await self._delete(execution)
        if not execution.record.session_id:
            await self._context.executor.delete(SandboxSpec(execution_id))

    async def delete_session(self, session_id: OwnerKey) -> int:
        """Deletes a session: its executions, its conversation, and its own directory or sandbox. Returns how many.

        Raises:
            NotFoundError: no execution of it is in the log.
            PreconditionError: one of them has not ended, or somebody follows one.
            LogError, SandboxError: it could not be deleted.
        """
        page = await self._log.list_executions(ExecutionFilter(session_id=session_id), limit=_MAX_SESSION_EXECUTIONS)
        executions = [await self._registry.find(OwnerKey(record.execution_id)) for record in page.executions]
        if not executions:
            raise NotFoundError(
                f"no execution of session {bare_id(session_id)} is in the log; it never was, or it was pruned"
            )
        for execution in executions:
            self._require_deletable(execution)
        for execution in executions:
            await self._delete(execution)
        await (await self._context.agent_loop.loaded()).forget_session(session_id)
        await self._context.executor.delete(SandboxSpec("", session_id))
        return len(executions)

    async def _delete(self, execution: Execution) -> None:
        self._registry.drop(execution)
        await self._log.delete(execution.id)
        if not execution.record.session_id:
            await (await self._context.agent_loop.loaded()).forget(execution.id, "")
        logger.info("execution_deleted execution=%s", execution.id)

    def _require_deletable(self, execution: Execution) -> None:
        if not (execution.is_final or execution.can_be_resumed):
            raise PreconditionError(
                f"execution {execution.name} is {states.state_name(execution.state).removeprefix('STATE_')}: "
                "cancel it first, and wait for its end"
            )
        if execution.holders:
            raise PreconditionError(f"somebody follows execution {execution.name}: delete it when they have left")
