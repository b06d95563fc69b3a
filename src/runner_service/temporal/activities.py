"""The activities. Each accepts its work in milliseconds, and is completed later by its task token."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from temporalio import activity
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

from runner_service.errors import InvalidRequestError
from runner_service.executions import stored_request
from runner_service.identity import ids_to_keys
from runner_service.settings import Settings
from runner_service.storage.activities import OpenActivity
from runner_service.temporal.contracts import AGENT, GRAPHTON
from runner_service.temporal.deadline import activity_deadline, seconds_of
from runner_service.temporal.open_attempts import Attempts
from runner_service.temporal.payloads import derived_id, encoding_of, execution_id_of, request_of, text_of
from runner_service.v1 import agent_runner_pb2 as runner_pb2

logger = logging.getLogger(__name__)

Check = Callable[[runner_pb2.ExecuteAgentRequest], None]

_HEARTBEATS_PER_TIMEOUT = 3
_SUFFIX_LENGTH = 8


class Activities:
    """The activities that the worker registers. `check` validates a request as every call of ExecuteAgent is."""

    def __init__(self, attempts: Attempts, check: Check, settings: Settings) -> None:
        self._attempts = attempts
        self._check = check
        self._settings = settings

    def all(self) -> Sequence[Callable[..., Any]]:
        """Returns them."""
        return [self.ensure_thread, self.execute_graphton, self.cleanup_sandbox, self.execute_agent]

    @activity.defn(name="EnsureThread")
    async def ensure_thread(self, session: RawValue, agent: RawValue) -> str:
        """Names the conversation thread of a session, or a new one of an agent."""
        if session_id := await text_of(session):
            return f"thread-{session_id}"
        suffix = derived_id("", *_activity_key(activity.info()))
        return f"ephemeral-{await text_of(agent)}-{suffix[:_SUFFIX_LENGTH]}"

    @activity.defn(name=GRAPHTON)
    async def execute_graphton(self, execution: RawValue, thread: RawValue) -> None:
        """Runs an execution of the Stigmer daemon, which is read from there by its id."""
        del thread  # it follows from the session
        request = runner_pb2.ExecuteAgentRequest(execution_id=await execution_id_of(execution))
        await self._accept(request, GRAPHTON)

    @activity.defn(name="CleanupSandbox")
    async def cleanup_sandbox(self, sandbox: RawValue) -> None:
        """Does nothing: directories belong to the user, and cloud sandboxes end by themselves."""
        del sandbox

    @activity.defn(name=AGENT)
    async def execute_agent(self, request: RawValue) -> None:
        """Runs the agent of an ExecuteAgentRequest, and returns its `finished` event."""
        try:
            asked = await request_of(request)
            self._check_asked(asked)
        except ApplicationError as error:
            logger.info("activity_refused type=%s reason=%s", AGENT, error.message)
            raise
        await self._accept(asked, AGENT, result_encoding=encoding_of(request))

    def _check_asked(self, request: runner_pb2.ExecuteAgentRequest) -> None:
        for name in ("after_sequence", "disconnect_policy"):
            if getattr(request, name):
                raise _invalid(f"{name}: must not be set: a workflow follows its execution to the end")
        if not request.execution_id:
            request.execution_id = derived_id("wf-", *_activity_key(activity.info()))
        try:
            self._check(request)
        except InvalidRequestError as error:
            raise _invalid(error.message) from None

    async def _accept(
        self, request: runner_pb2.ExecuteAgentRequest, activity_type: str, *, result_encoding: str = ""
    ) -> None:
        info = activity.info()
        ids_to_keys(request, self._settings.stigmer_tenant)
        stored = stored_request.storable(request) if request.HasField("agent") else None
        request.disconnect_policy = runner_pb2.DISCONNECT_POLICY_DETACH
        workflow_id, run_id, activity_id = _activity_key(info)
        opened = OpenActivity(
            workflow_id=workflow_id,
            run_id=run_id,
            activity_id=activity_id,
            activity_type=activity_type,
            task_token=info.task_token,
            execution_id=request.execution_id,
            deadline=activity_deadline(info),
            heartbeat_interval_seconds=self._heartbeat_interval_seconds(info),
            request=stored.SerializeToString() if stored else b"",
            result_encoding=result_encoding,
        )
        await self._attempts.accept(opened, request)
        activity.raise_complete_async()

    def _heartbeat_interval_seconds(self, info: activity.Info) -> float:
        timeout_seconds = seconds_of(info.heartbeat_timeout)
        return min(self._settings.temporal_heartbeat_interval, timeout_seconds / _HEARTBEATS_PER_TIMEOUT)


def _activity_key(info: activity.Info) -> tuple[str, str, str]:
    """Identifies an activity; the same for each of its attempts."""
    return info.workflow_id or "", info.workflow_run_id or "", info.activity_id


def _invalid(message: str) -> ApplicationError:
    return ApplicationError(message, type="INVALID_ARGUMENT", non_retryable=True)
