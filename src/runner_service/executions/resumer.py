"""Resumes executions that were interrupted, or that waited for an approval, once their request is at hand.

The request is what a caller sends again, what the log has, or, of an execution that came by its id, what the Stigmer
daemon has.
"""

from collections.abc import Callable

from runner_service.errors import PreconditionError
from runner_service.executions import stored_request
from runner_service.executions.audit import Audit
from runner_service.executions.daemon_requests import DaemonRequests
from runner_service.executions.execution import Execution
from runner_service.executions.lifecycle import Lifecycle
from runner_service.executions.ownership import ExecutionOwnership
from runner_service.executions.registry import Registry
from runner_service.executions.run_context import RunContext
from runner_service.executions.runner import prepare
from runner_service.identity import OwnerKey
from runner_service.v1 import agent_runner_pb2 as runner_pb2

Request = runner_pb2.ExecuteAgentRequest


class Resumer:
    """Belongs to the event loop. `require_ready` raises UnavailableError while nothing may begin."""

    def __init__(
        self,
        context: RunContext,
        registry: Registry,
        lifecycle: Lifecycle,
        ownership: ExecutionOwnership,
        requests: DaemonRequests,
        audit: Audit,
        *,
        require_ready: Callable[[], None],
    ) -> None:
        self._context = context
        self._registry = registry
        self._lifecycle = lifecycle
        self._ownership = ownership
        self._requests = requests
        self._audit = audit
        self._require_ready = require_ready

    async def resume(self, execution_id: OwnerKey) -> None:
        """Resumes an interrupted execution with what is stored of its request. It no longer depends on callers.

        Raises:
            CallError: as of `ExecutionService.started_or_attached`.
        """
        execution = await self._registry.find(execution_id)
        with self._registry.holding(execution):
            execution.policy = runner_pb2.DISCONNECT_POLICY_DETACH
            await self.resume_if_interrupted(execution, execution.request)

    async def resume_if_interrupted(self, execution: Execution, request: Request | None) -> None:
        """Resumes an execution, if it is INTERRUPTED, after what ran in its session before. Raises as `resume`."""
        if execution.can_be_resumed and not execution.has_started:
            await self._resume_predecessors(execution.session)
        if not execution.can_be_resumed:
            return
        if request and stored_request.is_reference(request):
            await self._resume_by_id(execution, request)
        else:
            await self._resume(execution, request)

    async def resume_waiting(self, execution: Execution) -> None:
        """Resumes a waiting execution, with the request in memory, in the log, or at the daemon.

        If its request had secrets, and another process accepted it, it becomes INTERRUPTED until a caller sends it.
        Raises as `resume` does.
        """
        run = self._lifecycle.parking.run_of(execution.id)
        request = run.request if run else execution.request
        if not stored_request.is_complete(request):
            execution.wait_for_caller()
            self._lifecycle.parking.release(execution.id)
            if request:
                await self.resume(execution.id)
            return
        prepared = await prepare(self._context, request, resumes=True) if request else None
        await self._ownership.require(execution)
        if execution.is_waiting and prepared:  # another decision may have been faster
            self._lifecycle.resume(execution, prepared)

    async def _resume_predecessors(self, session_id: OwnerKey) -> None:
        """Resumes what was running in a session, if possible, before an execution that was waiting for it."""
        for earlier in await self._registry.interrupted(session_id) if session_id else ():
            if earlier.has_started and stored_request.is_complete(earlier.request):
                await self._resume(earlier, earlier.request)

    async def _resume_by_id(self, execution: Execution, request: Request) -> None:
        found = await self._requests.read(request)
        if execution.can_be_resumed:
            await self._resume(execution, found.request)
            self._requests.report(execution, found)

    async def _resume(self, execution: Execution, request: Request | None) -> None:
        if request is None:
            raise PreconditionError(
                f"execution {execution.name} was interrupted, and it had secrets, which are never stored: "
                "to resume it, send the whole request again; to end it, call CancelExecution"
            )
        self._require_ready()
        self._context.require_same_root(execution)
        run = await prepare(self._context, request, resumes=True)
        await self._ownership.require(execution)
        if execution.can_be_resumed:  # another call may have been faster
            self._lifecycle.resume(execution, run)
            self._audit.record_request("RESUME", execution.id, execution.session, request)
