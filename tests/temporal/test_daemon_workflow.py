"""The daemon hands executions over through Temporal, and sees every one of them to its right end."""

import asyncio
import json
import random
from pathlib import Path

import grpc
import pytest
from temporalio.client import Client, WorkflowHistory
from tests.running import StartProcess, StartService, command, turn
from tests.stigmer.fake_daemon import FINAL, FakeDaemon
from tests.temporal.daemon_workflow import Timeouts, ended, invoke
from tests.temporal.server import needs_temporal
from tests.temporal.waiting import GATE, open_gate, process_with, until, until_calls

from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2

pytestmark = needs_temporal

SECRET = "s3cret-of-the-execution"


def payloads(history: WorkflowHistory) -> str:
    """All that Temporal keeps of a workflow, but for its first event, which is the daemon's."""
    return json.dumps(history.to_json_dict()["events"][1:])


async def test_an_execution_runs_through_temporal(
    start: StartService, client: Client, daemon: FakeDaemon, variables: dict[str, str], queue: str
) -> None:
    daemon.execution("aex-1", "go")
    daemon.resources["execution", "aex-1"].spec.runtime_env["TOKEN"].value = SECRET
    daemon.resources["execution", "aex-1"].spec.runtime_env["TOKEN"].is_secret = True
    await start([turn("", command("echo $TOKEN; echo ${#TOKEN}")), turn("Done.")], **variables)

    handle = await invoke(client, daemon, "aex-1", queue)

    assert await ended(handle) == "COMPLETED"
    status = daemon.status("aex-1")
    assert status.phase == execution_pb2.EXECUTION_COMPLETED
    assert status.messages[-1].content == "Done."
    assert "23" in status.tool_calls[0].result
    completed = [
        event
        for event in (await handle.fetch_history()).events
        if event.HasField("activity_task_completed_event_attributes")
    ]
    thread, result = (each.activity_task_completed_event_attributes.result.payloads[0] for each in completed)
    assert json.loads(thread.data) == "thread-ses-aex-1"
    assert result.metadata["messageType"] == b"ai.stigmer.agentic.agentexecution.v1.AgentExecutionStatus"
    assert set(json.loads(result.data)) == {"phase", "startedAt", "completedAt"}


async def test_an_execution_that_is_refused_is_reported_as_failed_with_its_reason(
    start: StartService, client: Client, daemon: FakeDaemon, variables: dict[str, str], queue: str
) -> None:
    daemon.execution("aex-1")
    daemon.resources["execution", "aex-1"].spec.runtime_env["PIN"].value = "1234"
    daemon.resources["execution", "aex-1"].spec.runtime_env["PIN"].is_secret = True
    await start([turn("Never.")], **variables)

    assert await ended(await invoke(client, daemon, "aex-1", queue)) == "COMPLETED"

    status = daemon.status("aex-1")
    assert status.phase == execution_pb2.EXECUTION_FAILED
    assert "environment['PIN'].value: must have at least 6 bytes" in status.error
    assert status.completed_at
    assert not status.messages


@pytest.mark.parametrize("missing", [("session", "ses-aex-1"), ("agent", "agt-1"), ("skill", "greeting")])
async def test_what_is_missing_is_reported_as_failed(
    start: StartService,
    client: Client,
    daemon: FakeDaemon,
    variables: dict[str, str],
    queue: str,
    missing: tuple[str, str],
) -> None:
    from runner_service.stigmer.wire import apiresource_pb2

    daemon.agent(skill_refs=[apiresource_pb2.ApiResourceReference(slug="greeting")])
    daemon.skill("greeting", "Say hello.")
    daemon.execution("aex-1")
    del daemon.resources[missing]
    await start([turn("Never.")], **variables)

    assert await ended(await invoke(client, daemon, "aex-1", queue)) == "COMPLETED"

    assert daemon.status("aex-1").phase == execution_pb2.EXECUTION_FAILED
    assert daemon.status("aex-1").error == f"NOT_FOUND: the Stigmer daemon does not know {' '.join(missing)}"


async def test_the_final_report_has_arrived_before_the_workflow_ends(
    start: StartService, client: Client, daemon: FakeDaemon, variables: dict[str, str], queue: str
) -> None:
    daemon.execution("aex-1")
    daemon.failures["updateStatus"] = grpc.StatusCode.UNAVAILABLE
    await start([turn("Done.")], **variables)
    handle = await invoke(client, daemon, "aex-1", queue)
    ending = asyncio.create_task(ended(handle))
    _, waiting = await asyncio.wait({ending}, timeout=3)  # ten times as long as it would take
    assert waiting

    daemon.failures.clear()

    assert await ending == "COMPLETED"
    assert daemon.status("aex-1").phase == execution_pb2.EXECUTION_COMPLETED


@pytest.mark.parametrize("how", ["cancel", "terminate"])
async def test_a_cancellation_reaches_the_processes(
    start: StartService, client: Client, daemon: FakeDaemon, variables: dict[str, str], queue: str, how: str
) -> None:
    seconds = str(random.randrange(10**6, 10**7))
    daemon.execution("aex-1")
    await start([turn("", command(f"exec sleep {seconds}")), turn("Never.")], **variables)
    handle = await invoke(client, daemon, "aex-1", queue)
    await until_calls(daemon, "aex-1")
    sleeping = await process_with(seconds)

    await (handle.cancel() if how == "cancel" else handle.terminate())
    await until(daemon, lambda: daemon.status("aex-1").phase in FINAL)

    assert daemon.status("aex-1").phase == execution_pb2.EXECUTION_CANCELLED
    assert not sleeping.is_running()
    assert await ended(handle) == ("CANCELED" if how == "cancel" else "TERMINATED")
    assert daemon.status("aex-1").error == "CANCELLED: Temporal: the workflow was cancelled or terminated"


async def test_an_execution_ends_as_timed_out_before_the_time_of_its_activity_is_over(
    start: StartService, client: Client, daemon: FakeDaemon, variables: dict[str, str], queue: str
) -> None:
    daemon.execution("aex-1")
    await start([turn("", command("sleep 1000")), turn("Never.")], **variables)

    handle = await invoke(client, daemon, "aex-1", queue, Timeouts(start_to_close=10))

    assert await ended(handle) == "COMPLETED"
    assert daemon.status("aex-1").phase == execution_pb2.EXECUTION_FAILED
    assert daemon.status("aex-1").error.startswith("TIMED_OUT: ")


async def test_the_time_of_the_workflow_counts_too(
    start: StartService, client: Client, daemon: FakeDaemon, variables: dict[str, str], queue: str
) -> None:
    daemon.execution("aex-1")
    await start([turn("", command("sleep 1000")), turn("Never.")], **variables)

    handle = await invoke(client, daemon, "aex-1", queue, Timeouts(run=10))

    assert await ended(handle) == "COMPLETED"
    assert daemon.status("aex-1").error.startswith("TIMED_OUT: ")


async def test_a_killed_service_goes_on_with_the_same_attempt(
    start_process: StartProcess,
    client: Client,
    daemon: FakeDaemon,
    variables: dict[str, str],
    queue: str,
    tmp_path: Path,
) -> None:
    daemon.execution("aex-1")
    turns = [
        turn("", command("echo once >> marks")),
        turn("", command(GATE)),
        turn("", command("cat marks")),
        turn("Done."),
    ]
    service = await start_process(turns, **variables)
    handle = await invoke(client, daemon, "aex-1", queue, Timeouts(heartbeat=100))
    await until_calls(daemon, "aex-1", 2)

    await service.kill()
    await start_process([], **variables)
    await asyncio.to_thread(open_gate, tmp_path)

    assert await ended(handle) == "COMPLETED"
    status = daemon.status("aex-1")
    assert status.phase == execution_pb2.EXECUTION_COMPLETED
    assert [call.error for call in status.tool_calls] == ["", "interrupted", ""]
    assert status.tool_calls[2].result.split() == ["once", *["[Command", "succeeded", "with", "exit", "code", "0]"]]


async def test_a_service_that_stops_hands_its_attempts_back(
    start_process: StartProcess,
    client: Client,
    daemon: FakeDaemon,
    variables: dict[str, str],
    queue: str,
    tmp_path: Path,
) -> None:
    daemon.execution("aex-1")
    variables |= {"DRAIN_TIMEOUT": "0.1"}
    service = await start_process([turn("", command(GATE)), turn("Done.")], **variables)
    handle = await invoke(client, daemon, "aex-1", queue, Timeouts(heartbeat=100))
    await until_calls(daemon, "aex-1")

    service.process.terminate()
    await service.ended()
    assert daemon.status("aex-1").phase == execution_pb2.EXECUTION_IN_PROGRESS
    await start_process([], **variables)

    assert await ended(handle) == "COMPLETED"
    assert daemon.status("aex-1").phase == execution_pb2.EXECUTION_COMPLETED
    assert daemon.status("aex-1").messages[-1].content == "Done."


@pytest.mark.parametrize(
    ("lost_attempt", "phase"),
    [("fail", execution_pb2.EXECUTION_FAILED), ("continue", execution_pb2.EXECUTION_COMPLETED)],
)
async def test_an_attempt_that_temporal_has_given_up_ends_as_the_setting_says(
    start_process: StartProcess,
    client: Client,
    daemon: FakeDaemon,
    variables: dict[str, str],
    queue: str,
    lost_attempt: str,
    phase: int,
) -> None:
    daemon.execution("aex-1")
    variables |= {"TEMPORAL_LOST_ATTEMPT": lost_attempt}
    service = await start_process([turn("", command(GATE)), turn("Done.")], **variables)
    handle = await invoke(client, daemon, "aex-1", queue, Timeouts(heartbeat=4))
    await until_calls(daemon, "aex-1")
    await service.kill()
    assert await ended(handle) == "FAILED"
    assert daemon.status("aex-1").phase == execution_pb2.EXECUTION_FAILED
    reports = len(daemon.reports)

    await start_process([], **variables)
    await until(daemon, lambda: len(daemon.reports) > reports and daemon.reports[-1].status.phase in FINAL)

    assert daemon.status("aex-1").phase == phase
    if lost_attempt == "fail":
        assert daemon.status("aex-1").error.startswith("INTERRUPTED: Temporal: the attempt was given up")


async def test_many_executions_at_once_wait_in_the_service_and_all_end_right(
    start: StartService, client: Client, daemon: FakeDaemon, variables: dict[str, str], queue: str
) -> None:
    names = [f"aex-{number}" for number in range(40)]
    for name in names:
        daemon.execution(name, f"I am {name}.")
    variables |= {"TEMPORAL_MAX_CONCURRENCY": "3", "MAX_CONCURRENT_EXECUTIONS": "4"}
    await start([turn("", command("true")), turn("{{message}}")], **variables)

    handles = [await invoke(client, daemon, name, queue) for name in names]

    assert set(await asyncio.gather(*map(ended, handles))) == {"COMPLETED"}
    assert [daemon.status(name).messages[-1].content for name in names] == [f"I am {name}." for name in names]
    assert {daemon.status(name).phase for name in names} == {execution_pb2.EXECUTION_COMPLETED}


async def test_nothing_but_ids_and_phases_is_added_to_the_history(
    start: StartService, client: Client, daemon: FakeDaemon, variables: dict[str, str], queue: str
) -> None:
    daemon.execution("aex-1", "tell the story")
    await start([turn("Once upon a time.")], **variables)
    handle = await invoke(client, daemon, "aex-1", queue)
    assert await ended(handle) == "COMPLETED"

    assert "Once upon a time" not in payloads(await handle.fetch_history())
