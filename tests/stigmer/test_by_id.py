"""An execution that the daemon has, run by its id alone."""

import asyncio
from typing import Any

import grpc
import pytest
from tests.agent.capabilities import zip_archive
from tests.logged import errors
from tests.running import Client, Event, StartService, command, kinds, one, stdout_of, turn
from tests.stigmer.fake_daemon import KEY, FakeDaemon, answering_bytes, served

from runner_service.stigmer.wire import agent_pb2, apiresource_pb2
from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2
from runner_service.v1 import agent_runner_pb2 as runner_pb2

OF_A_LATER_DAEMON = bytes([0xF2, 0x07, 0x03]) + b"abc"
"""Field 126, which no message has yet."""


async def by_id(client: Client, name: str, **fields: Any) -> list[Event]:
    """Runs an execution of the daemon."""
    return await client.collect(client.stub.ExecuteAgent(runner_pb2.ExecuteAgentRequest(execution_id=name, **fields)))


async def refusal(client: Client, name: str) -> grpc.aio.AioRpcError:
    """The status that an execution of the daemon is refused with."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await by_id(client, name)
    return refused.value


def with_daemon(daemon: FakeDaemon) -> dict[str, str]:
    """The variables that the daemon starts the service with."""
    return {"STIGMER_BACKEND_ENDPOINT": daemon.address, "STIGMER_API_KEY": KEY}


async def test_an_execution_runs_by_its_id(start: StartService, daemon: FakeDaemon) -> None:
    daemon.execution("aex-1", "say {{hi}}")
    client = await start([turn("You said: {{message}}")], **with_daemon(daemon))

    events = await by_id(client, "aex-1")

    assert kinds(events)[0] == "started"
    assert one(events, "finished").output == "You said: say {{hi}}"
    assert daemon.keys == {f"Bearer {KEY}"}
    listed = await client.stub.ListExecutions(runner_pb2.ListExecutionsRequest(session_id="ses-aex-1"))
    assert [each.agent_name for each in listed.executions] == ["helper"]


async def test_later_environments_override_earlier_ones(start: StartService, daemon: FakeDaemon) -> None:
    daemon.agent(environment={"A": "agent", "B": "agent", "C": "agent", "D": "agent"})
    daemon.environment("first", {"B": "first", "C": "first", "D": "first"})
    daemon.environment("second", {"C": "second", "D": "second"})
    daemon.execution("aex-1")
    daemon.instance("first", "second")
    runtime = daemon.resources["execution", "aex-1"].spec.runtime_env
    runtime["D"].value = "runtime"
    client = await start([turn("", command("echo $A $B $C $D")), turn("Ok.")], **with_daemon(daemon))

    assert stdout_of(await by_id(client, "aex-1")) == b"agent first second runtime\n"


async def test_a_secret_of_the_daemon_is_never_shown(start: StartService, daemon: FakeDaemon) -> None:
    daemon.environment("vault", {"TOKEN": "s3cret-value"}, secret=True)
    daemon.execution("aex-1", "use s3cret-value")
    daemon.instance("vault")
    client = await start([turn("", command("echo $TOKEN; echo ${#TOKEN}")), turn("Ok.")], **with_daemon(daemon))

    events = await by_id(client, "aex-1")

    assert stdout_of(events) == b"[redacted:secret]\n12\n"
    await daemon.until_final("aex-1")
    assert not [report for report in daemon.reports if b"s3cret-value" in report.SerializeToString()]
    assert daemon.status("aex-1").messages[0].content == "use [redacted:secret]"


async def test_an_execution_without_a_session_names_its_agent(start: StartService, daemon: FakeDaemon) -> None:
    daemon.execution("aex-1", session_id="", agent_id="agt-1")
    client = await start([turn("Hi.")], **with_daemon(daemon))

    assert one(await by_id(client, "aex-1"), "finished").output == "Hi."


async def test_the_model_of_an_execution_is_used(start: StartService, daemon: FakeDaemon) -> None:
    daemon.execution("aex-1", execution_config=execution_pb2.ExecutionConfig(model_name="special"))
    client = await start([turn("Hi.")], **with_daemon(daemon))

    assert one(await by_id(client, "aex-1"), "started").model.name == "special"


async def test_limits_and_labels_of_the_call_count(start: StartService, daemon: FakeDaemon) -> None:
    daemon.execution("aex-1")
    client = await start([turn("", command("true")) for _ in range(3)], **with_daemon(daemon))

    events = await by_id(client, "aex-1", limits=runner_pb2.ExecutionLimits(max_model_calls=1), labels={"for": "test"})

    assert one(events, "finished").error.code == "LIMIT_EXCEEDED"
    listed = await client.stub.ListExecutions(runner_pb2.ListExecutionsRequest())
    assert dict(listed.executions[0].labels) == {"for": "test"}


async def test_skills_and_environments_are_asked_for_side_by_side(
    start: StartService, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner_service.stigmer.client.CALL_TIMEOUT_SECONDS", 120.0)
    for name in ("one", "two"):
        daemon.skill(name, f"Skill {name}.", version=name, archive=zip_archive({"a": b"a"}))
        daemon.environment(name, {name.upper(): name})
    daemon.agent(skill_refs=[apiresource_pb2.ApiResourceReference(slug=name) for name in ("one", "two")])
    daemon.execution("aex-1")
    daemon.instance("one", "two")
    all_four, both_files = asyncio.Barrier(4), asyncio.Barrier(2)
    daemon.asked_together = {"skill": all_four, "environment": all_four, "artifact": both_files}
    client = await start([turn("", command("echo $ONE $TWO; cat bin/skills/*/a")), turn("Ok.")], **with_daemon(daemon))

    async with asyncio.timeout(30):  # one that waits for another is only asked again after the time of a call
        assert stdout_of(await by_id(client, "aex-1")) == b"one two\naa"


async def test_what_a_later_daemon_adds_disturbs_nothing(start: StartService, daemon: FakeDaemon) -> None:
    daemon.execution("aex-1")
    for resource in daemon.resources.values():
        resource.MergeFromString(OF_A_LATER_DAEMON)
        resource.spec.MergeFromString(OF_A_LATER_DAEMON)
    client = await start([turn("Hi.")], **with_daemon(daemon))

    assert one(await by_id(client, "aex-1"), "finished").output == "Hi."
    await daemon.until_final("aex-1")
    assert daemon.resources["execution", "aex-1"].SerializeToString().endswith(OF_A_LATER_DAEMON)


@pytest.mark.parametrize(
    ("missing", "named"),
    [
        (("execution", "aex-1"), "agent_execution aex-1"),
        (("session", "ses-aex-1"), "session ses-aex-1"),
        (("instance", "ain-1"), "agent_instance ain-1"),
        (("agent", "agt-1"), "agent agt-1"),
        (("environment", "vault"), "environment vault"),
        (("skill", "greeting"), "skill greeting"),
    ],
)
async def test_what_is_missing_is_named(
    start: StartService, daemon: FakeDaemon, missing: tuple[str, str], named: str
) -> None:
    daemon.environment("vault", {})
    daemon.skill("greeting", "Say hello.")
    daemon.agent(skill_refs=[apiresource_pb2.ApiResourceReference(slug="greeting")])
    daemon.execution("aex-1")
    daemon.instance("vault")
    del daemon.resources[missing]
    client = await start([turn("Hi.")], **with_daemon(daemon))

    refused = await refusal(client, "aex-1")

    assert refused.code() == grpc.StatusCode.NOT_FOUND
    assert refused.details() == f"the Stigmer daemon does not know {named}"


@pytest.mark.parametrize(
    ("code", "seen", "text"),
    [
        (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.PERMISSION_DENIED, "does not show agent agt-1"),
        (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.FAILED_PRECONDITION, "does not accept STIGMER_API_KEY"),
        (grpc.StatusCode.INTERNAL, grpc.StatusCode.FAILED_PRECONDITION, "failed when asked for agent agt-1"),
        (
            grpc.StatusCode.UNIMPLEMENTED,
            grpc.StatusCode.FAILED_PRECONDITION,
            "this service speaks that of January 2026",
        ),
    ],
)
async def test_what_the_daemon_refuses_is_a_clear_status(
    start: StartService, daemon: FakeDaemon, code: grpc.StatusCode, seen: grpc.StatusCode, text: str
) -> None:
    daemon.execution("aex-1")
    daemon.failures["agent"] = code
    client = await start([turn("Hi.")], **with_daemon(daemon))

    refused = await refusal(client, "aex-1")

    assert refused.code() == seen
    assert text in (refused.details() or "")
    assert KEY not in (refused.details() or "")


@pytest.mark.parametrize("answer", [b"\xff\xff", b"\x0a\x02\xff\xfe", b"\x1a\x7f"])
async def test_an_answer_that_cannot_be_decoded_is_told_as_that(
    start: StartService, answer: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with answering_bytes(answer) as address:
        client = await start([turn("Hi.")], STIGMER_BACKEND_ENDPOINT=address, STIGMER_API_KEY=KEY)

        refused = await refusal(client, "aex-1")

    assert refused.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "for agent_execution aex-1 cannot be decoded" in (refused.details() or "")
    assert not errors(caplog)


async def test_what_cannot_be_run_is_refused_with_its_fields(start: StartService, daemon: FakeDaemon) -> None:
    daemon.environment("vault", {"PIN": "1234"}, secret=True)
    daemon.execution("aex-1", " ")
    daemon.instance("vault")
    client = await start([turn("Hi.")], **with_daemon(daemon))

    refused = await refusal(client, "aex-1")

    assert refused.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert "message: must say what the agent is to do" in (refused.details() or "")
    assert "environment['PIN'].value: must have at least 6 bytes" in (refused.details() or "")
    assert "1234" not in (refused.details() or "")


async def test_files_of_a_skill_that_are_missing_are_a_notice(start: StartService, daemon: FakeDaemon) -> None:
    daemon.skill("greeting", "Say hello.", archive=zip_archive({"a": b"a"}))
    del daemon.resources["artifact", "key-greeting"]
    daemon.agent(skill_refs=[apiresource_pb2.ApiResourceReference(slug="greeting")])
    daemon.execution("aex-1")
    client = await start([turn("", command("cat bin/skills/v1/SKILL.md")), turn("Ok.")], **with_daemon(daemon))

    events = await by_id(client, "aex-1")

    assert one(events, "notice").code == "SKILL_FILES_MISSING"
    assert "does not know artifact of skill greeting" in one(events, "notice").text
    assert stdout_of(events) == b"Say hello."


async def test_a_server_in_a_container_is_a_notice(start: StartService, daemon: FakeDaemon) -> None:
    docker = agent_pb2.McpServerDefinition(name="box", docker=agent_pb2.DockerServer())
    sub_agent = agent_pb2.SubAgent(name="helper", description="Helps.", mcp_servers=["box"])
    sub_agent.mcp_tool_selections["box"].enabled_tools.append("open")
    daemon.agent(mcp_servers=[docker], sub_agents=[sub_agent])
    daemon.execution("aex-1")
    client = await start([turn("Ok.")], **with_daemon(daemon))

    events = await by_id(client, "aex-1")

    assert one(events, "notice").code == "MCP_SERVER_UNAVAILABLE"
    assert "needs docker" in one(events, "notice").text
    assert one(events, "finished").output == "Ok."


async def test_a_daemon_that_is_gone_is_told_as_that(start: StartService) -> None:
    async with served(FakeDaemon()) as daemon:
        pass
    client = await start([turn("Hi.")], **with_daemon(daemon))

    refused = await refusal(client, "aex-1")

    assert refused.code() == grpc.StatusCode.UNAVAILABLE
    assert daemon.address in (refused.details() or "")
    assert one(await client.execute(), "finished").output == "Hi."  # without the daemon, everything else works


async def test_a_daemon_that_is_slow_is_told_as_that_within_a_bounded_time(
    start: StartService, daemon: FakeDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner_service.stigmer.client.CALL_TIMEOUT_SECONDS", 1.5)
    daemon.execution("aex-1")
    daemon.silent.add("session")
    client = await start([turn("Hi.")], **with_daemon(daemon))

    async with asyncio.timeout(30):
        refused = await refusal(client, "aex-1")

    assert refused.code() == grpc.StatusCode.UNAVAILABLE
    assert "did not answer when asked for session ses-aex-1 (DEADLINE_EXCEEDED)" in (refused.details() or "")
    monkeypatch.setattr("runner_service.stigmer.client.CALL_TIMEOUT_SECONDS", 30.0)
    daemon.silent.clear()
    assert one(await by_id(client, "aex-1"), "finished").output == "Hi."


async def test_a_short_absence_of_the_daemon_is_bridged(start: StartService, daemon: FakeDaemon) -> None:
    daemon.execution("aex-1")
    daemon.failures["session"] = grpc.StatusCode.UNAVAILABLE
    client = await start([turn("Hi.")], **with_daemon(daemon))
    asyncio.get_running_loop().call_later(0.3, daemon.failures.clear)

    assert one(await by_id(client, "aex-1"), "finished").output == "Hi."


async def test_a_second_call_attaches_and_asks_the_daemon_nothing(start: StartService, daemon: FakeDaemon) -> None:
    daemon.execution("aex-1")
    client = await start([turn("Hi.")], **with_daemon(daemon))
    first = await by_id(client, "aex-1")
    daemon.failures["execution"] = grpc.StatusCode.INTERNAL

    assert await by_id(client, "aex-1") == first


async def test_two_calls_at_once_start_it_once(start: StartService, daemon: FakeDaemon) -> None:
    daemon.execution("aex-1")
    client = await start([turn("", command("echo once >> marks; cat marks")), turn("Ok.")], **with_daemon(daemon))

    first, second = await asyncio.gather(by_id(client, "aex-1"), by_id(client, "aex-1"))

    assert first == second
    assert stdout_of(first) == b"once\n"


async def test_without_an_agent_nothing_else_may_describe_the_work(start: StartService) -> None:
    client = await start([turn("Hi.")])

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await by_id(client, "aex-1", message="go")

    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    assert "message: must not be set without agent" in (refused.value.details() or "")


async def test_without_a_daemon_an_unknown_id_is_not_found(start: StartService) -> None:
    client = await start([turn("Hi.")])

    assert (await refusal(client, "aex-1")).code() == grpc.StatusCode.NOT_FOUND


async def test_health_tells_whether_the_daemon_is_there(start: StartService, daemon: FakeDaemon) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    client = await start([turn("Hi.")], **with_daemon(daemon))
    async with grpc.aio.insecure_channel(client.service.address) as channel, asyncio.timeout(60):
        health: Any = health_pb2_grpc.HealthStub(channel)
        watch = health.Watch(health_pb2.HealthCheckRequest(service="stigmer-daemon"))
        async for response in watch:
            if response.status == health_pb2.HealthCheckResponse.SERVING:
                break
        watch.cancel()


def test_unknown_fields_survive() -> None:
    newer = execution_pb2.AgentExecutionStatus(phase=execution_pb2.EXECUTION_PENDING)
    newer.MergeFromString(OF_A_LATER_DAEMON)
    newer.MergeFromString(bytes([0x10, 0x06]))  # EXECUTION_WAITING_FOR_APPROVAL, of a later daemon

    again = execution_pb2.AgentExecutionStatus.FromString(newer.SerializeToString())

    assert b"abc" in again.SerializeToString()
    assert again.phase == 6
