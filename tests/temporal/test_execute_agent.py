"""Any workflow can run an agent: the activity ExecuteAgent, with our own request."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from examples.temporal import run as example
from examples.temporal.workflow import AgentTask, RunAgent
from temporalio import workflow
from temporalio.client import Client, WorkflowFailureError
from temporalio.common import RetryPolicy
from temporalio.exceptions import ActivityError, ApplicationError, CancelledError
from temporalio.worker import UnsandboxedWorkflowRunner, Worker
from tests.running import StartProcess, StartService, command, one, turn, written
from tests.temporal.server import TemporalServer, needs_temporal
from tests.temporal.waiting import GATE, open_gate, process_with

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

pytestmark = needs_temporal

RETRY = RetryPolicy(maximum_attempts=3, initial_interval=timedelta(milliseconds=100))


@workflow.defn
class Protobuf:
    """Runs a request in protobuf, and returns what comes back."""

    @workflow.run
    async def run(self, request: runner_pb2.ExecuteAgentRequest, queue: str) -> event_pb2.ExecutionEvent:
        event: event_pb2.ExecutionEvent = await workflow.execute_activity(
            "ExecuteAgent",
            request,
            task_queue=queue,
            start_to_close_timeout=timedelta(seconds=60),
            heartbeat_timeout=timedelta(seconds=3),
            retry_policy=RETRY,
            result_type=event_pb2.ExecutionEvent,
        )
        return event


@workflow.defn
class Plain:
    """Runs a request in JSON."""

    @workflow.run
    async def run(self, request: dict[str, Any], queue: str) -> dict[str, Any]:
        event: dict[str, Any] = await workflow.execute_activity(
            "ExecuteAgent",
            request,
            task_queue=queue,
            start_to_close_timeout=timedelta(seconds=60),
            retry_policy=RETRY,
            result_type=dict[str, Any],
        )
        return event


def workflows_of(queue: str) -> str:
    """The queue of the workflows of a test whose service has `queue`."""
    return f"workflows-{queue}"


@pytest.fixture
async def caller(temporal: TemporalServer, queue: str) -> AsyncIterator[Client]:
    """A client of Temporal, and a worker of the workflows."""
    client = await temporal.client()
    worker = Worker(
        client,
        task_queue=workflows_of(queue),
        workflows=[Protobuf, Plain, RunAgent],
        workflow_runner=UnsandboxedWorkflowRunner(),
    )
    async with worker:
        yield client


@pytest.fixture
def variables(temporal: TemporalServer, queue: str) -> dict[str, str]:
    """What a service without a daemon is started with."""
    return {"TEMPORAL_SERVICE_ADDRESS": temporal.address, "TASK_QUEUE": queue}


def agent_request(message: str = "go", **fields: Any) -> runner_pb2.ExecuteAgentRequest:
    """A request for the scripted agent."""
    return runner_pb2.ExecuteAgentRequest(
        agent=runner_pb2.Agent(name="tester", instructions="Do it."), message=message, **fields
    )


async def run(client: Client, run_method: Any, *args: Any) -> Any:
    """Runs a workflow, whose last argument is the queue of the service, to its end."""
    queue = workflows_of(args[-1])
    return await client.execute_workflow(run_method, args=args, id=uuid.uuid4().hex, task_queue=queue)


async def failure(client: Client, run_method: Any, *args: Any) -> ApplicationError:
    """What the activity of a workflow fails with."""
    with pytest.raises(WorkflowFailureError) as failed:
        await run(client, run_method, *args)
    assert isinstance(failed.value.cause, ActivityError)
    assert isinstance(failed.value.cause.cause, ApplicationError)
    return failed.value.cause.cause


async def test_a_request_in_protobuf_is_answered_with_its_last_event(
    start: StartService, caller: Client, variables: dict[str, str], queue: str
) -> None:
    client = await start([turn("You said: {{message}}")], **variables)

    event = await run(caller, Protobuf.run, agent_request("hi", execution_id="mine"), queue)

    assert event.execution_id == "mine"
    assert event.finished.output == "You said: hi"
    assert (
        event
        == (await client.collect(client.stub.WatchExecution(runner_pb2.WatchExecutionRequest(execution_id="mine"))))[-1]
    )


async def test_a_request_in_json_is_answered_in_json(
    start: StartService, caller: Client, variables: dict[str, str], queue: str
) -> None:
    await start([turn("You said: {{message}}")], **variables)
    request = {"agent": {"name": "tester", "instructions": "Do it."}, "message": "hi"}

    event = await run(caller, Plain.run, request, queue)

    assert event["execution_id"].startswith("wf-")
    assert event["finished"]["state"] == "STATE_SUCCEEDED"
    assert event["finished"]["output"] == "You said: hi"


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        ({"agent": {"name": "tester"}, "message": " "}, "message: must say what the agent is to do"),
        ({"agent": {"name": "tester"}, "message": "go", "colour": "red"}, "colour"),
        ({"agent": {"name": "tester"}, "message": "go", "after_sequence": "3"}, "after_sequence: must not be set"),
        ({"execution_id": "../up", "message": ""}, "execution_id"),
    ],
)
async def test_a_wrong_request_fails_the_activity_for_good(
    start: StartService, caller: Client, variables: dict[str, str], queue: str, request_: dict[str, Any], text: str
) -> None:
    await start([turn("Never.")], **variables)

    error = await failure(caller, Plain.run, request_, queue)

    assert (error.type, error.non_retryable) == ("INVALID_ARGUMENT", True)
    assert text in error.message


async def test_an_id_that_belongs_to_another_request_fails_the_activity_for_good(
    start: StartService, caller: Client, variables: dict[str, str], queue: str
) -> None:
    client = await start([turn("Ok.")], **variables)
    await client.execute(execution_id="taken")

    error = await failure(caller, Protobuf.run, agent_request("another", execution_id="taken"), queue)

    assert (error.type, error.non_retryable) == ("ALREADY_EXISTS", True)


async def test_an_agent_that_fails_is_a_result(
    start: StartService, caller: Client, variables: dict[str, str], queue: str
) -> None:
    await start([turn("", command("true")) for _ in range(3)], **variables)
    request = agent_request(limits=runner_pb2.ExecutionLimits(max_model_calls=1))

    event = await run(caller, Protobuf.run, request, queue)

    assert event.finished.error.code == "LIMIT_EXCEEDED"


async def test_the_next_attempt_attaches_to_what_a_killed_service_has_left_with_its_secrets(
    start_process: StartProcess, caller: Client, variables: dict[str, str], queue: str, tmp_path: Path
) -> None:
    turns = [
        turn("", command("echo once >> marks")),
        turn("", command(GATE)),
        turn("", command("cat marks; echo ${#KEY}")),
    ]
    service = await start_process([*turns, turn("{{last_tool_result}}")], **variables)
    request = agent_request(execution_id="mine")
    request.environment["KEY"].value = "a-secret-of-18-byte"
    request.environment["KEY"].is_secret = True
    running = asyncio.create_task(run(caller, Protobuf.run, request, queue))
    await written(tmp_path / "workspace" / "marks")

    await service.kill()
    await start_process([], **variables)
    await asyncio.to_thread(open_gate, tmp_path)

    event = await running
    assert event.finished.output.split()[:2] == ["once", "19"]


async def test_the_example_survives_a_kill_and_says_where_to_stream_from(
    start_process: StartProcess, caller: Client, variables: dict[str, str], queue: str, tmp_path: Path
) -> None:
    turns = [
        turn("", command("echo once >> marks")),
        turn("", command(GATE)),
        turn("", command("cat marks")),
        turn("Done."),
    ]
    service = await start_process(turns, **variables)
    handle = await caller.start_workflow(
        RunAgent.run, AgentTask("go", task_queue=queue), id=uuid.uuid4().hex, task_queue=workflows_of(queue)
    )
    execution_id = await handle.query(RunAgent.execution_id)
    await service.client.started(execution_id)
    await written(tmp_path / "workspace" / "marks")

    await service.kill()
    service = await start_process([], **variables)
    await asyncio.to_thread(open_gate, tmp_path)

    assert await handle.result() == "Done."
    events = await service.client.collect(
        service.stub.WatchExecution(runner_pb2.WatchExecutionRequest(execution_id=execution_id))
    )
    assert one(events, "finished").output == "Done."
    assert (tmp_path / "workspace" / "marks").read_text() == "once\n"


async def test_the_example_forwards_a_cancellation_to_the_processes(
    start: StartService, caller: Client, variables: dict[str, str], queue: str
) -> None:
    seconds = str(uuid.uuid4().int % 10**7 + 10**7)
    client = await start([turn("", command(f"exec sleep {seconds}")), turn("Never.")], **variables)
    handle = await caller.start_workflow(
        RunAgent.run, AgentTask("go", task_queue=queue), id=uuid.uuid4().hex, task_queue=workflows_of(queue)
    )
    execution_id = await handle.query(RunAgent.execution_id)
    sleeping = await process_with(seconds)

    await handle.cancel()

    with pytest.raises(WorkflowFailureError) as cancelled:
        await handle.result()
    assert isinstance(cancelled.value.cause, CancelledError)
    assert not sleeping.is_running()
    assert await client.state(execution_id) == event_pb2.STATE_CANCELLED


async def test_the_example_prints_what_the_agent_does_and_answers(
    start: StartService,
    variables: dict[str, str],
    queue: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    client = await start([turn("Let me see.", command("true")), turn("All is well.")], **variables)
    for name, value in {**variables, "LISTEN_ADDRESS": client.service.address}.items():
        monkeypatch.setenv(name, value)

    await example.main("go")

    assert capsys.readouterr().out == "Let me see.\n[execute]\nAll is well.\n\nAll is well.\n"
