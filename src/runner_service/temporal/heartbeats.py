"""Heartbeats of an activity that is completed by its task token, and what Temporal answers to them."""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from enum import Enum

from temporalio.client import AsyncActivityCancelledError, AsyncActivityHandle, Client, WorkflowExecutionStatus
from temporalio.service import RPCError, RPCStatusCode

from runner_service.identity import bare_id
from runner_service.storage.activities import OpenActivity
from runner_service.temporal.connection import Connection

logger = logging.getLogger(__name__)

_RPC_TIMEOUT = timedelta(seconds=5)


class Verdict(Enum):
    """Why Temporal no longer wants the result of an attempt."""

    CANCELLED = "the workflow was cancelled or terminated"
    TIMED_OUT = "the time of the workflow is over"
    LOST = "the attempt was given up, since no heartbeat came in time"
    SUPERSEDED = "the attempt was given up, and another one may follow"


def handle_of(client: Client, activity: OpenActivity) -> AsyncActivityHandle:
    """Returns what completes an activity: by its task token, or by its ids if the token is not known."""
    if activity.task_token:
        return client.get_async_activity_handle(task_token=activity.task_token)
    return client.get_async_activity_handle(
        workflow_id=activity.workflow_id, run_id=activity.run_id, activity_id=activity.activity_id
    )


class Heartbeats:
    """Sends heartbeats of one activity until Temporal no longer wants it."""

    def __init__(self, connection: Connection, activity: OpenActivity) -> None:
        self._connection = connection
        self._activity = activity

    async def run(self, on_verdict: Callable[[Verdict], None]) -> None:
        """Sends one every interval, for ever, or until there is a verdict. An unreachable Temporal is retried."""
        while (verdict := await self.send()) is None:  # noqa: ASYNC110  # an interval, not a poll
            await asyncio.sleep(self._activity.heartbeat_interval_seconds)
        logger.info("activity_closed execution=%s reason=%r", self._activity.execution_id, verdict.value)
        on_verdict(verdict)

    async def send(self) -> Verdict | None:
        """Sends one heartbeat, which holds nothing but the id of the execution."""
        client = await self._connection.client()
        handle = handle_of(client, self._activity)
        try:
            await handle.heartbeat({"execution_id": bare_id(self._activity.execution_id)}, rpc_timeout=_RPC_TIMEOUT)
        except AsyncActivityCancelledError as error:
            is_cancelled = error.details is None or error.details.cancel_requested
            return Verdict.CANCELLED if is_cancelled else None  # a paused activity runs on
        except RPCError as error:
            if error.status is RPCStatusCode.NOT_FOUND:
                return await self._why_closed(client)
            logger.debug("heartbeat_failed execution=%s reason=%s", self._activity.execution_id, error.message)
        return None

    async def _why_closed(self, client: Client) -> Verdict | None:
        """Asks for the state of the workflow, since a closed activity is NOT_FOUND whatever has closed it."""
        if not self._activity.workflow_id:
            return Verdict.LOST
        handle = client.get_workflow_handle(self._activity.workflow_id, run_id=self._activity.run_id)
        try:
            status = (await handle.describe(rpc_timeout=_RPC_TIMEOUT)).status
        except RPCError as error:
            return Verdict.LOST if error.status is RPCStatusCode.NOT_FOUND else None
        return _VERDICTS.get(status, Verdict.LOST) if status else Verdict.LOST


_VERDICTS = {
    WorkflowExecutionStatus.CANCELED: Verdict.CANCELLED,
    WorkflowExecutionStatus.TERMINATED: Verdict.CANCELLED,
    WorkflowExecutionStatus.TIMED_OUT: Verdict.TIMED_OUT,
    WorkflowExecutionStatus.RUNNING: Verdict.SUPERSEDED,
}
