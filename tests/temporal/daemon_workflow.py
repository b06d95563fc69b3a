"""The workflow of the Stigmer daemon of January 2026: its time-outs, and what it overwrites when an activity fails."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from google.protobuf.json_format import MessageToDict
from temporalio import activity, workflow
from temporalio.client import Client, WorkflowHandle
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, is_cancelled_exception
from temporalio.worker import UnsandboxedWorkflowRunner, Worker
from tests.stigmer.fake_daemon import FakeDaemon

from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2

NAME = "stigmer/agent-execution/invoke"
QUEUE_MEMO = "activityTaskQueue"
UPDATE_STATUS = "UpdateExecutionStatus"
COMPLETE_EXTERNAL = "stigmer/system/complete-external-activity"


@dataclass
class Timeouts:
    """The daemon's, in seconds; tests that provoke them make them shorter."""

    run: float = 600
    schedule_to_start: float = 60
    start_to_close: float = 600
    heartbeat: float = 30


@workflow.defn(name=NAME)
class Invoke:
    """Calls the runner's activities. A failure overwrites whatever the execution is by then."""

    @workflow.run
    async def run(self, execution: execution_pb2.AgentExecution, timeouts: Timeouts) -> None:
        queue = workflow.memo_value(QUEUE_MEMO, type_hint=str)
        waits = timedelta(seconds=timeouts.schedule_to_start)
        try:
            thread = await workflow.execute_activity(
                "EnsureThread",
                args=[execution.spec.session_id, execution.spec.agent_id],
                task_queue=queue,
                schedule_to_start_timeout=waits,
                start_to_close_timeout=timedelta(seconds=30),
                retry_policy=RetryPolicy(
                    maximum_attempts=3, initial_interval=timedelta(seconds=5), backoff_coefficient=2
                ),
                result_type=str,
            )
            status = await workflow.execute_activity(
                "ExecuteGraphton",
                args=[execution, thread],
                task_queue=queue,
                schedule_to_start_timeout=waits,
                start_to_close_timeout=timedelta(seconds=timeouts.start_to_close),
                heartbeat_timeout=timedelta(seconds=timeouts.heartbeat),
                retry_policy=RetryPolicy(maximum_attempts=1),
                result_type=execution_pb2.AgentExecutionStatus,
            )
            _require(status)
            if execution.spec.callback_token:
                await workflow.execute_activity(
                    COMPLETE_EXTERNAL,
                    args=[execution.spec.callback_token, execution],
                    start_to_close_timeout=timedelta(seconds=30),
                )
        except (ActivityError, ApplicationError) as error:
            if is_cancelled_exception(error):
                raise
            reason = f"Error details: {error.__cause__ or error}"
            await workflow.execute_activity(
                UPDATE_STATUS,
                args=[execution.metadata.id, ["Internal system error…", reason]],
                start_to_close_timeout=timedelta(seconds=30),
                retry_policy=RetryPolicy(maximum_attempts=3),
            )
            raise


def _require(status: execution_pb2.AgentExecutionStatus | None) -> None:
    if status is None:
        raise ApplicationError("the activity returned nothing", non_retryable=True)


@asynccontextmanager
async def daemon_worker(client: Client, daemon: FakeDaemon, queue: str) -> AsyncIterator[None]:
    """Runs the daemon's own worker."""

    @activity.defn(name=UPDATE_STATUS)
    async def update_status(execution_id: str, lines: list[str]) -> None:
        daemon.fail(execution_id, *lines)

    @activity.defn(name=COMPLETE_EXTERNAL)
    async def complete_external(token: bytes, execution: execution_pb2.AgentExecution) -> None:
        result = MessageToDict(execution, preserving_proto_field_name=True)  # as it was created: without the answer
        await client.get_async_activity_handle(task_token=token).complete(result)

    worker = Worker(
        client,
        task_queue=f"daemon-{queue}",
        workflows=[Invoke],
        activities=[update_status, complete_external],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )
    async with worker:
        yield


def workflow_id(name: str, queue: str) -> str:
    """The id of an execution's workflow: tests share a server, and each has a queue of its own."""
    return f"{NAME}/{queue}/{name}"


async def invoke(
    client: Client, daemon: FakeDaemon, name: str, queue: str, timeouts: Timeouts | None = None
) -> WorkflowHandle[Any, Any]:
    """Starts the workflow of an execution that the daemon has, as its `create` does."""
    execution = execution_pb2.AgentExecution()
    execution.CopyFrom(daemon.resources["execution", name])
    timeouts = timeouts or Timeouts()
    return await client.start_workflow(
        NAME,
        args=[execution, timeouts],
        id=workflow_id(name, queue),
        task_queue=f"daemon-{queue}",
        run_timeout=timedelta(seconds=timeouts.run),
        memo={QUEUE_MEMO: queue},
    )


async def ended(handle: WorkflowHandle[Any, Any]) -> str:
    """Waits for the end of a workflow and returns its status."""
    async with asyncio.timeout(60):
        with suppress(Exception):  # the status says what it was
            await handle.result()
    status = (await handle.describe()).status
    assert status
    return status.name
