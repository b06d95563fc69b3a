"""The open attempts of this process: stored before they begin, and resumed at the start."""

import asyncio
import logging
from collections.abc import Mapping

from runner_service.executions import stored_request
from runner_service.identity import ids_to_keys
from runner_service.storage.activities import AnnouncedWorkflow, OpenActivity
from runner_service.storage.event_log import LogError
from runner_service.temporal.attempt import Attempt, Services
from runner_service.temporal.contracts import Contract
from runner_service.temporal.handover import Handover
from runner_service.v1 import agent_runner_pb2 as runner_pb2

logger = logging.getLogger(__name__)

Key = tuple[str, str, str]

_HEARTBEATS_PER_TIMEOUT = 3


class Attempts:
    """Runs attempts, each in a task of its own. Belongs to the event loop."""

    def __init__(self, services: Services, contracts: Mapping[str, Contract], tasks: asyncio.TaskGroup) -> None:
        self._services = services
        self._contracts = contracts
        self._task_group = tasks
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._is_stopped = False

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self._tasks)

    def has(self, workflow: AnnouncedWorkflow, activity_id: str) -> bool:
        """Tells whether an activity has an attempt here."""
        return (*workflow, activity_id) in self._tasks

    async def accept(
        self,
        handover: Handover,
        request: runner_pb2.ExecuteAgentRequest,
        activity_type: str,
        *,
        result_encoding: str = "",
    ) -> None:
        """Stores an attempt and begins it; it survives the death of the process from here on."""
        settings = self._services.settings
        ids_to_keys(request, settings.stigmer_tenant)
        stored = stored_request.storable(request) if request.HasField("agent") else None
        request.disconnect_policy = runner_pb2.DISCONNECT_POLICY_DETACH
        longest_interval_seconds = handover.heartbeat_timeout_seconds / _HEARTBEATS_PER_TIMEOUT
        activity = OpenActivity(
            workflow_id=handover.workflow_id,
            run_id=handover.run_id,
            activity_id=handover.activity_id,
            activity_type=activity_type,
            task_token=handover.task_token,
            execution_id=request.execution_id,
            deadline=handover.deadline,
            heartbeat_interval_seconds=min(settings.temporal_heartbeat_interval, longest_interval_seconds),
            request=stored.SerializeToString() if stored else b"",
            result_encoding=result_encoding,
        )
        try:
            await self._services.store.add(activity)
        except LogError as error:  # it may pass; a failed activity would be the end of the execution
            logger.warning("activity_not_stored execution=%s reason=%s", activity.execution_id, error)
        if not self._is_stopped:  # or the next process begins it
            self._begin(activity, request, is_resumed=False)

    async def resume_stored(self) -> None:
        """Resumes what processes that have ended had left, except for what is resumed already. Raises LogError."""
        for activity in await self._services.store.list_open():
            if activity.activity_type not in self._contracts:
                logger.warning("activity_unknown type=%s execution=%s", activity.activity_type, activity.execution_id)
                continue
            if self.has(AnnouncedWorkflow(activity.workflow_id, activity.run_id), activity.activity_id):
                continue
            await self._services.store.add(activity)
            request = runner_pb2.ExecuteAgentRequest(execution_id=activity.execution_id)
            if activity.request:
                request = runner_pb2.ExecuteAgentRequest.FromString(activity.request)
            request.disconnect_policy = runner_pb2.DISCONNECT_POLICY_DETACH
            self._begin(activity, request, is_resumed=True)

    def stop(self) -> None:
        """Stops following; the executions are not touched."""
        self._is_stopped = True
        for task in self._tasks.values():
            task.cancel()

    def _begin(self, activity: OpenActivity, request: runner_pb2.ExecuteAgentRequest, *, is_resumed: bool) -> None:
        key = (activity.workflow_id, activity.run_id, activity.activity_id)
        if earlier := self._tasks.pop(key, None):  # Temporal has given it up and started this one
            earlier.cancel()
        contract = self._contracts[activity.activity_type]
        attempt = Attempt(self._services, contract, activity, request, is_resumed=is_resumed)
        task = self._task_group.create_task(attempt.run(), name=f"attempt-{activity.execution_id}")
        self._tasks[key] = task
        task.add_done_callback(lambda ended: self._remove(key, ended))

    def _remove(self, key: Key, ended: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is ended:
            del self._tasks[key]
