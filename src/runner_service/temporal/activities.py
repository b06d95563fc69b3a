"""The activities. Each accepts its work in milliseconds, and is completed later by its task token."""

import logging
from collections.abc import Callable, Sequence
from typing import Any

from temporalio import activity
from temporalio.common import RawValue
from temporalio.exceptions import ApplicationError

from runner_service.errors import InvalidRequestError
from runner_service.storage.activities import ActivityStore, AnnouncedWorkflow
from runner_service.storage.event_log import LogError
from runner_service.temporal.contracts import AGENT, GRAPHTON
from runner_service.temporal.handover import current_handover
from runner_service.temporal.open_attempts import Attempts
from runner_service.temporal.payloads import derived_id, encoding_of, graphton_request, request_of, text_of
from runner_service.v1 import agent_runner_pb2 as runner_pb2

logger = logging.getLogger(__name__)

Check = Callable[[runner_pb2.ExecuteAgentRequest], None]

_SUFFIX_LENGTH = 8


class Activities:
    """The activities that the worker registers. `check` validates a request as every call of ExecuteAgent is."""

    def __init__(self, attempts: Attempts, store: ActivityStore, check: Check) -> None:
        self._attempts = attempts
        self._store = store
        self._check = check

    def all(self) -> Sequence[Callable[..., Any]]:
        """Returns them."""
        return [self.ensure_thread, self.execute_graphton, self.cleanup_sandbox, self.execute_agent]

    @activity.defn(name="EnsureThread")
    async def ensure_thread(self, session: RawValue, agent: RawValue) -> str:
        """Names the conversation thread of a session, or a new one of an agent."""
        await self._announce()
        if session_id := await text_of(session):
            return f"thread-{session_id}"
        suffix = derived_id("", *_activity_key(activity.info()))
        return f"ephemeral-{await text_of(agent)}-{suffix[:_SUFFIX_LENGTH]}"

    async def _announce(self) -> None:
        """Makes it known to a later process that the workflow will hand over its execution."""
        workflow_id, run_id, _ = _activity_key(activity.info())
        try:
            await self._store.announce(AnnouncedWorkflow(workflow_id, run_id))
        except LogError as error:  # it only matters if this process is killed in the moment of the handover
            logger.warning("workflow_not_announced workflow=%s reason=%s", workflow_id, error)

    @activity.defn(name=GRAPHTON)
    async def execute_graphton(self, execution: RawValue, thread: RawValue) -> None:
        """Runs an execution of the Stigmer daemon, which is read from there by its id."""
        del thread  # it follows from the session
        await self._attempts.accept(current_handover(), await graphton_request(execution), GRAPHTON)
        activity.raise_complete_async()

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
        await self._attempts.accept(current_handover(), asked, AGENT, result_encoding=encoding_of(request))
        activity.raise_complete_async()

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


def _activity_key(info: activity.Info) -> tuple[str, str, str]:
    """Identifies an activity; the same for each of its attempts."""
    return info.workflow_id or "", info.workflow_run_id or "", info.activity_id


def _invalid(message: str) -> ApplicationError:
    return ApplicationError(message, type="INVALID_ARGUMENT", non_retryable=True)
