"""A daemon that sends more than this version knows, and a workflow that waits for an execution by a callback token."""

import asyncio
import json
import uuid
from datetime import timedelta
from typing import Any

import pytest
from temporalio import activity, workflow
from temporalio.api.common.v1 import Payload
from temporalio.client import Client
from temporalio.common import RawValue
from temporalio.worker import UnsandboxedWorkflowRunner, Worker
from tests.running import StartService, command, turn
from tests.stigmer.fake_daemon import FakeDaemon
from tests.temporal.daemon_workflow import ended, invoke
from tests.temporal.server import needs_temporal

from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2

pytestmark = needs_temporal


@workflow.defn
class Newer:
    """Hands over an execution in a form of its own."""

    @workflow.run
    async def run(self, execution: RawValue, queue: str) -> execution_pb2.AgentExecutionStatus:
        status: execution_pb2.AgentExecutionStatus = await workflow.execute_activity(
            "ExecuteGraphton",
            args=[execution, "thread"],
            task_queue=queue,
            start_to_close_timeout=timedelta(seconds=60),
            result_type=execution_pb2.AgentExecutionStatus,
        )
        return status


@workflow.defn
class Waits:
    """Waits for an activity that somebody else completes."""

    @workflow.run
    async def run(self) -> dict[str, Any]:
        result: dict[str, Any] = await workflow.execute_activity(
            "ask", start_to_close_timeout=timedelta(seconds=60), result_type=dict[str, Any]
        )
        return result


def worker(client: Client, queue: str, *activities: Any) -> Worker:
    """A worker of these workflows."""
    return Worker(
        client,
        task_queue=f"others-{queue}",
        workflows=[Newer, Waits],
        activities=activities,
        workflow_runner=UnsandboxedWorkflowRunner(),
    )


@pytest.mark.parametrize("encoding", [b"json/protobuf", b"json/plain", b"binary/protobuf"])
async def test_of_the_argument_only_the_id_is_read(
    start: StartService, client: Client, daemon: FakeDaemon, variables: dict[str, str], queue: str, encoding: bytes
) -> None:
    daemon.execution("aex-1")
    await start([turn("Done.")], **variables)
    content = {"metadata": {"id": "aex-1", "colour": "red"}, "status": {"phase": "EXECUTION_LATER"}, "later": [1]}
    data = json.dumps(content).encode()
    if encoding == b"binary/protobuf":
        message = execution_pb2.AgentExecution.FromString(daemon.resources["execution", "aex-1"].SerializeToString())
        data = message.SerializeToString() + bytes([0xF2, 0x07, 0x03]) + b"abc"  # a field that there is not yet
    payload = Payload(metadata={"encoding": encoding, "messageType": b"ai.stigmer.Later"}, data=data)
    async with worker(client, queue):
        status = await client.execute_workflow(
            Newer.run, args=[RawValue(payload), queue], id=uuid.uuid4().hex, task_queue=f"others-{queue}"
        )

    assert status.phase == execution_pb2.EXECUTION_COMPLETED
    assert daemon.status("aex-1").messages[-1].content == "Done."


async def test_who_waits_by_a_callback_token_goes_on_also_when_the_agent_has_failed(
    start: StartService, client: Client, daemon: FakeDaemon, variables: dict[str, str], queue: str
) -> None:
    tokens: asyncio.Queue[bytes] = asyncio.Queue()

    @activity.defn(name="ask")
    async def ask() -> None:
        tokens.put_nowait(activity.info().task_token)
        activity.raise_complete_async()

    await start([turn("", command("true"), error={"status": 400})], **variables)
    async with worker(client, queue, ask):
        waiting = await client.start_workflow(Waits.run, id=uuid.uuid4().hex, task_queue=f"others-{queue}")
        daemon.execution("aex-1", callback_token=await tokens.get())
        assert await ended(await invoke(client, daemon, "aex-1", queue)) == "COMPLETED"
        result = await waiting.result()

    assert result["metadata"]["id"] == "aex-1"
    assert daemon.status("aex-1").phase == execution_pb2.EXECUTION_FAILED
    assert daemon.status("aex-1").error.startswith("MODEL_REJECTED")
