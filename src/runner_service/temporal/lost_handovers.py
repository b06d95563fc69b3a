"""Takes activities whose process has ended: an earlier one, or another replica.

Among them are those that Temporal handed to a process which was killed before it stored their task tokens.

Temporal cannot be asked for the activities of a worker, only for those of a workflow. The daemon's workflow runs
`EnsureThread` before `ExecuteGraphton`, and so announces itself. An announcement is withdrawn when the activity is
stored.
"""

import asyncio
import logging
from datetime import timedelta

from temporalio.api.enums.v1 import PendingActivityState, WorkflowExecutionStatus
from temporalio.api.workflow.v1 import PendingActivityInfo
from temporalio.client import WorkflowHandle
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError
from temporalio.service import RPCError, RPCStatusCode

from runner_service.storage.activities import AnnouncedWorkflow
from runner_service.storage.event_log import LogError
from runner_service.temporal.attempt import Services
from runner_service.temporal.contracts import GRAPHTON
from runner_service.temporal.handover import earlier_handover
from runner_service.temporal.open_attempts import Attempts
from runner_service.temporal.payloads import graphton_request

logger = logging.getLogger(__name__)

_INTERVAL_SECONDS = 5.0  # Temporal may also notice late that the process is gone to which it hands something over
_RPC_TIMEOUT = timedelta(seconds=5)

_Handle = WorkflowHandle[object, object]


class LostHandovers:
    """Looks at the workflows that have announced an activity, and at activities whose process has ended."""

    def __init__(self, services: Services, attempts: Attempts) -> None:
        self._services = services
        self._attempts = attempts

    async def run(self) -> None:
        """Looks at the start and then at intervals, until cancelled. What fails is retried then."""
        while True:
            try:
                if self._services.store.is_shared:
                    await self._attempts.resume_stored()
                announced = await self._services.store.list_announced()
            except LogError as error:
                logger.warning("handovers_not_inspected reason=%s", error)
                announced = ()
            for workflow in announced:
                try:
                    await self._inspect(workflow)
                except (LogError, RPCError, ApplicationError) as error:
                    logger.info("handover_not_inspected workflow=%s reason=%s", workflow.workflow_id, error)
            await asyncio.sleep(_INTERVAL_SECONDS)

    async def _inspect(self, workflow: AnnouncedWorkflow) -> None:
        client = await self._services.connection.client()
        handle: _Handle = client.get_workflow_handle(workflow.workflow_id, run_id=workflow.run_id)
        try:
            found = (await handle.describe(rpc_timeout=_RPC_TIMEOUT)).raw_description
        except RPCError as error:
            if error.status is not RPCStatusCode.NOT_FOUND:
                raise
            await self._services.store.withdraw(workflow)
            return
        if found.workflow_execution_info.status != WorkflowExecutionStatus.WORKFLOW_EXECUTION_STATUS_RUNNING:
            await self._services.store.withdraw(workflow)
        for pending in found.pending_activities:
            if not self._attempts.has(workflow, pending.activity_id) and await self._is_lost(pending):
                await self._take(handle, workflow, pending)

    async def _is_lost(self, pending: PendingActivityInfo) -> bool:
        """Whether a process that has ended has it; what another one has may be about to be stored."""
        is_started = pending.state == PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
        is_graphton = pending.activity_type.name == GRAPHTON
        return is_started and is_graphton and await self._services.store.has_ended(pending.last_worker_identity)

    async def _take(self, handle: _Handle, workflow: AnnouncedWorkflow, pending: PendingActivityInfo) -> None:
        async for event in handle.fetch_history_events(rpc_timeout=_RPC_TIMEOUT):
            scheduled = event.activity_task_scheduled_event_attributes
            if scheduled.activity_id == pending.activity_id:
                break
        else:
            return
        request = await graphton_request(RawValue(scheduled.input.payloads[0]))
        logger.warning("lost_handover_taken execution=%s from=%s", request.execution_id, pending.last_worker_identity)
        await self._attempts.accept(earlier_handover(workflow, pending, scheduled), request, GRAPHTON)
