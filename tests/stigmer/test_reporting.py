"""The daemon sees how its executions go, whatever becomes of it or of the service."""

import asyncio
import logging
import sqlite3
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from tests.running import StartService, command, one, turn
from tests.stigmer.fake_daemon import FakeDaemon, served
from tests.stigmer.test_by_id import by_id, with_daemon

from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2


def pending(tmp_path: Path) -> list[str]:
    """Executions with a pending report."""
    with closing(sqlite3.connect(tmp_path / "state" / "events.db")) as connection:
        query = "SELECT execution_id FROM execution_values JOIN executions ON key = execution WHERE name = ?"
        return [name for (name,) in connection.execute(query, ("pending_report",))]


async def no_pending_reports(tmp_path: Path) -> None:
    """Waits until every report has arrived."""
    async with asyncio.timeout(60):
        while pending(tmp_path):
            await asyncio.sleep(0.02)


async def test_a_whole_run_is_in_the_status(start: StartService, daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.execution("aex-1", "please")
    plan = [{"content": "look", "status": "in_progress"}, {"content": "tell", "status": "pending"}]
    turns = {
        "turns": [
            turn("Let me see. ", ("write_todos", {"todos": plan})),
            turn("Now run. ", command("echo out; exit 3")),
            turn("", ("task", {"description": "count", "subagent_type": "general-purpose"})),
            turn("Done."),
        ],
        "sub_agents": [{"turns": [turn("", command("echo inside")), turn("I counted.")]}],
    }
    client = await start(turns, **with_daemon(daemon))

    await by_id(client, "aex-1")
    status = await daemon.until_final("aex-1")
    await no_pending_reports(tmp_path)

    assert daemon.reports_of("aex-1")[-1] == status  # the last one is whole, though the plan was known long before
    assert status.phase == execution_pb2.EXECUTION_COMPLETED
    assert status.started_at.endswith("Z")
    assert status.started_at <= status.completed_at
    assert [(each.type, each.content) for each in status.messages] == [
        (execution_pb2.MESSAGE_HUMAN, "please"),
        (execution_pb2.MESSAGE_AI, "Let me see. "),
        (execution_pb2.MESSAGE_AI, "Now run. "),
        (execution_pb2.MESSAGE_TOOL, f"execute: {' '.join(status.tool_calls[0].result.split())}"),
        (execution_pb2.MESSAGE_TOOL, "execute: inside [Command succeeded with exit code 0]"),
        (execution_pb2.MESSAGE_TOOL, "task: I counted."),
        (execution_pb2.MESSAGE_AI, "Done."),
    ]
    assert [call.name for call in status.messages[2].tool_calls] == ["execute"]
    failed, task, inside = status.tool_calls
    assert failed.status == execution_pb2.TOOL_CALL_FAILED
    assert failed.error == "failed, exit code 3"
    assert "out" in failed.result
    assert failed.args["command"] == "echo out; exit 3"
    assert (failed.component_metadata.component_type, failed.component_metadata.component_group) == (
        "terminal",
        "main-agent-tools",
    )
    assert task.status == execution_pb2.TOOL_CALL_COMPLETED
    assert inside.component_metadata.metadata["sub_agent_id"] == task.id
    [sub_agent] = status.sub_agent_executions
    assert (sub_agent.id, sub_agent.name, sub_agent.input) == (task.id, "general-purpose", "count")
    assert (sub_agent.status, sub_agent.output) == (execution_pb2.SUB_AGENT_COMPLETED, "I counted.")
    assert [(key, item.content, item.status) for key, item in sorted(status.todos.items())] == [
        ("1", "look", execution_pb2.TODO_IN_PROGRESS),
        ("2", "tell", execution_pb2.TODO_PENDING),
    ]


async def test_who_reports_does_not_count_as_watching(start: StartService, daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.execution("aex-1")
    client = await start(
        [turn("", command("until [ -e go ]; do sleep 0.02; done")), turn("Done.")], **with_daemon(daemon)
    )
    call = client.stub.ExecuteAgent(
        runner_pb2.ExecuteAgentRequest(execution_id="aex-1", disconnect_policy=runner_pb2.DISCONNECT_POLICY_DETACH)
    )
    await client.collect(call, until=lambda event: event.HasField("tool_call_started"))
    executions = client.service.executions  # type: ignore[union-attr]  # it runs in this process

    assert executions.watchers == 1
    call.cancel()
    async with asyncio.timeout(60):
        while executions.watchers:
            await asyncio.sleep(0.01)
        (tmp_path / "workspace" / "go").touch()
        await daemon.until_final("aex-1")


async def test_the_last_report_is_whole_and_the_reports_are_within_their_budget(
    start: StartService, daemon: FakeDaemon
) -> None:
    daemon.execution("aex-1")
    turns = [turn("Again. ", command("echo output")) for _ in range(40)]
    client = await start([*turns, turn("Done.")], **with_daemon(daemon))

    await by_id(client, "aex-1")
    status = await daemon.until_final("aex-1")

    reports = daemon.reports_of("aex-1")
    assert len(reports) > 5
    assert reports[-1] == status
    assert sum(report.ByteSize() for report in reports) <= 10 * status.ByteSize()


async def test_a_tool_is_reported_while_it_runs(start: StartService, daemon: FakeDaemon, tmp_path: Path) -> None:
    daemon.execution("aex-1")
    client = await start(
        [turn("", command("until [ -e go ]; do sleep 0.02; done")), turn("Ok.")], **with_daemon(daemon)
    )
    running = asyncio.create_task(by_id(client, "aex-1"))

    async with asyncio.timeout(60):
        while not daemon.status("aex-1").tool_calls:
            await daemon.changed()
    assert daemon.status("aex-1").phase == execution_pb2.EXECUTION_IN_PROGRESS
    assert daemon.status("aex-1").tool_calls[0].status == execution_pb2.TOOL_CALL_RUNNING
    await asyncio.to_thread((tmp_path / "workspace" / "go").touch)
    await running


async def test_a_failure_is_reported_with_its_reason(start: StartService, daemon: FakeDaemon) -> None:
    daemon.execution("aex-1")
    client = await start([turn("", command("true")) for _ in range(3)], **with_daemon(daemon))

    await by_id(client, "aex-1", limits=runner_pb2.ExecutionLimits(max_model_calls=2))
    status = await daemon.until_final("aex-1")

    assert status.phase == execution_pb2.EXECUTION_FAILED
    assert status.error.startswith("LIMIT_EXCEEDED: limits.max_model_calls = 2 was reached")


async def test_a_cancelled_execution_is_reported_as_that(start: StartService, daemon: FakeDaemon) -> None:
    daemon.execution("aex-1")
    client = await start([turn("", command("sleep 60")), turn("Never.")], **with_daemon(daemon))
    running = asyncio.create_task(by_id(client, "aex-1"))
    await client.started("aex-1")

    await client.stub.CancelExecution(runner_pb2.CancelExecutionRequest(execution_id="aex-1", reason="enough"))
    await running
    status = await daemon.until_final("aex-1")

    assert status.phase == execution_pb2.EXECUTION_CANCELLED
    assert "enough" in status.error


async def test_only_executions_of_the_daemon_are_reported(start: StartService, daemon: FakeDaemon) -> None:
    client = await start([turn("Hi.")], **with_daemon(daemon))

    await client.execute(execution_id="not-the-daemons")

    assert not daemon.reports


@pytest.mark.parametrize("failure", ["silent", "failing"])
async def test_no_execution_waits_for_a_daemon_that_takes_no_reports(
    start: StartService, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    monkeypatch.setattr("runner_service.stigmer.client.CALL_TIMEOUT_SECONDS", 120.0)
    daemon.execution("aex-1")
    if failure == "silent":
        daemon.silent.add("updateStatus")
    else:
        daemon.failures["updateStatus"] = grpc.StatusCode.INTERNAL
    client = await start([turn("", command("true")) for _ in range(5)] + [turn("Done.")], **with_daemon(daemon))

    async with asyncio.timeout(60):  # a report alone has 240
        assert one(await by_id(client, "aex-1"), "finished").output == "Done."
    assert not daemon.reports


async def test_the_last_report_arrives_when_the_daemon_is_back(
    start: StartService, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    daemon = FakeDaemon()
    daemon.agent()
    daemon.execution("aex-1")
    async with served(daemon):
        client = await start(
            [turn("", command("until [ -e go ]; do sleep 0.02; done")), turn("Ok.")], **with_daemon(daemon)
        )
        running = asyncio.create_task(by_id(client, "aex-1"))
        await client.started("aex-1")
    await asyncio.to_thread((tmp_path / "workspace" / "go").touch)
    assert one(await running, "finished").state == event_pb2.STATE_SUCCEEDED
    async with asyncio.timeout(60):
        while "daemon_not_reachable" not in caplog.text:
            await asyncio.sleep(0.02)

    async with served(daemon, daemon.address):
        assert (await daemon.until_final("aex-1")).phase == execution_pb2.EXECUTION_COMPLETED
        await no_pending_reports(tmp_path)
    assert len([each for each in caplog.records if "daemon_not_reachable" in each.message]) == 1


async def test_the_last_report_arrives_after_a_restart_of_the_service(
    start: StartService, daemon: FakeDaemon, tmp_path: Path
) -> None:
    from tests.running import Client, _environ

    from runner_service.app import running_service
    from runner_service.settings import load_settings
    from runner_service.v1 import agent_runner_pb2_grpc as runner_grpc

    daemon.execution("aex-1", "remember me")
    daemon.failures["updateStatus"] = grpc.StatusCode.UNAVAILABLE
    settings = load_settings(_environ(tmp_path, [turn("Done.")], with_daemon(daemon)))
    async with running_service(settings) as service, grpc.aio.insecure_channel(service.address) as channel:
        await by_id(Client(service, runner_grpc.AgentRunnerServiceStub(channel)), "aex-1")
    assert pending(tmp_path) == ["aex-1"]
    assert not daemon.reports

    daemon.failures.clear()
    await start([turn("Done.")], **with_daemon(daemon))

    status = await daemon.until_final("aex-1")
    assert [message.content for message in status.messages] == ["remember me", "Done."]
    await no_pending_reports(tmp_path)


async def test_a_pending_report_counts_as_nobody_watching_and_lets_the_service_be_idle(
    start: StartService, daemon: FakeDaemon, tmp_path: Path
) -> None:
    daemon.execution("aex-1")
    daemon.failures["updateStatus"] = grpc.StatusCode.UNAVAILABLE
    client = await start([turn("Done.")], **with_daemon(daemon))

    await by_id(client, "aex-1")

    executions = client.service.executions  # type: ignore[union-attr]  # it runs in this process
    async with asyncio.timeout(60):
        while executions.is_busy:
            await asyncio.sleep(0.01)
    assert executions.watchers == 0
    assert pending(tmp_path) == ["aex-1"]


async def test_a_message_is_reported_once_when_it_is_complete_so_that_the_command_line_prints_it_whole(
    start: StartService, daemon: FakeDaemon, tmp_path: Path
) -> None:
    daemon.execution("aex-1", "please")
    text = "many words " * 400
    turns = [turn(text, command("echo one")), turn("", command("echo two")), turn("Done.")]
    client = await start(turns, **with_daemon(daemon))

    await by_id(client, "aex-1")
    status = await daemon.until_final("aex-1")
    await no_pending_reports(tmp_path)

    assert daemon.printed["aex-1"] == [message.content for message in status.messages]
    assert daemon.printed["aex-1"][1] == text
    assert all(daemon.printed["aex-1"])


async def test_a_report_is_sent_again_when_the_store_of_the_daemon_fails_for_a_moment(
    start: StartService, daemon: FakeDaemon
) -> None:
    daemon.execution("aex-1")
    daemon.failures["updateStatus"] = grpc.StatusCode.NOT_FOUND  # as the daemon answers to any error of its store
    client = await start([turn("Done.")], **with_daemon(daemon))
    asyncio.get_running_loop().call_later(0.5, daemon.failures.clear)

    await by_id(client, "aex-1")

    assert (await daemon.until_final("aex-1")).phase == execution_pb2.EXECUTION_COMPLETED


async def test_an_execution_that_the_daemon_no_longer_has_is_given_up(
    start: StartService, daemon: FakeDaemon, tmp_path: Path
) -> None:
    daemon.execution("aex-1")
    daemon.failures["updateStatus"] = grpc.StatusCode.NOT_FOUND
    client = await start([turn("Done.")], **with_daemon(daemon))

    await by_id(client, "aex-1")

    await no_pending_reports(tmp_path)
