"""Confinement by request and by the operator, through the real service."""

import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.agent.capabilities import agent, zip_archive
from tests.running import Client, Event, StartProcess, StartService, command, one, stdout_of, turn

from runner_service.allowed_hosts import AllowedHost
from runner_service.executors.confinement import Confinement, LooseningError, Requested
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

needs_bubblewrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")

WORKSPACE = runner_pb2.Confinement(files=event_pb2.FILES_CONFINEMENT_WORKSPACE)
READ_ONLY = runner_pb2.Confinement(files=event_pb2.FILES_CONFINEMENT_READ_ONLY)


def results_of(events: list[Event]) -> list[str]:
    return [each.tool_call_finished.result for each in events if each.HasField("tool_call_finished")]


async def refusal_of(client: Client, **fields: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.execute(**fields)
    return refused.value


@needs_bubblewrap
async def test_started_names_what_is_in_force_and_commands_are_held_to_it(start: StartService) -> None:
    outside = Path.home() / f".written-by-{os.getpid()}"
    turns = [turn("", command(f"touch {outside} || echo refused; touch inside && echo allowed")), turn("Done.")]
    client = await start(turns)

    events = await client.execute(confinement=WORKSPACE)

    info = one(events, "started").sandbox.confinement
    assert info.files == event_pb2.FILES_CONFINEMENT_WORKSPACE
    assert info.network == event_pb2.NETWORK_CONFINEMENT_ALL
    assert info.mechanism.startswith("bwrap ")
    assert "loopback" in info.gaps
    assert stdout_of(events) == b"refused\nallowed\n"
    assert not outside.exists()


async def test_without_a_level_nothing_is_confined_and_started_says_so(start: StartService) -> None:
    client = await start([turn("Done.")])
    info = one(await client.execute(), "started").sandbox.confinement
    assert (info.files, info.mechanism) == (event_pb2.FILES_CONFINEMENT_NONE, "none")


@needs_bubblewrap
async def test_file_tools_obey_the_level_of_the_commands(start: StartService, tmp_path: Path) -> None:
    calls = [
        ("write_file", {"file_path": "/new", "content": "x"}),
        ("edit_file", {"file_path": "/old", "old_string": "a", "new_string": "b"}),
        command("echo x > new"),
        ("read_file", {"file_path": "/old"}),
    ]
    (tmp_path / "workspace").mkdir()
    (tmp_path / "workspace" / "old").write_text("a")
    client = await start([*(turn("", call) for call in calls), turn("Done.")])

    written, edited, commanded, read = results_of(await client.execute(confinement=READ_ONLY))

    assert "read-only" in written
    assert "read-only" in edited
    assert "ead-only" in commanded
    assert "a" in read


@needs_bubblewrap
async def test_mcp_servers_and_scripts_of_skills_obey_the_level_of_the_commands(
    start: StartService, tmp_path: Path
) -> None:
    outside = Path.home() / f".written-by-{os.getpid()}"
    script = f"touch {outside}; touch "
    server = runner_pb2.StdioServer(command="bash", args=["-c", f"{script} by-server"])
    skill = runner_pb2.Skill(
        name="s", version="v-1", content="x", archive=zip_archive({"run.sh": f"{script} by-skill".encode()})
    )
    equipped = agent(skills=[skill], mcp_servers=[runner_pb2.McpServer(name="no-server", stdio=server)])
    client = await start([turn("", command("bash bin/skills/v-1/run.sh")), turn("Done.")])
    await client.execute(agent=equipped, confinement=WORKSPACE)
    assert (tmp_path / "workspace" / "by-server").exists()
    assert (tmp_path / "workspace" / "by-skill").exists()
    assert not outside.exists()


@needs_bubblewrap
async def test_the_least_of_the_operator_holds_for_a_request_that_names_nothing(start: StartService) -> None:
    client = await start(
        [turn("", command("echo x > file || echo refused")), turn("Done.")], SANDBOX_CONFINEMENT="READ_ONLY"
    )
    events = await client.execute()
    assert one(events, "started").sandbox.confinement.files == event_pb2.FILES_CONFINEMENT_READ_ONLY
    assert stdout_of(events) == b"refused\n"


async def test_a_request_cannot_ask_for_less_than_the_operator(start: StartService) -> None:
    client = await start([turn("Done.")], SANDBOX_CONFINEMENT="read_only", SANDBOX_NETWORK="none")
    for field, confinement in {
        "files": WORKSPACE,
        "network": runner_pb2.Confinement(network=event_pb2.NETWORK_CONFINEMENT_ALL),
        "writable_paths": runner_pb2.Confinement(writable_paths=["/srv"]),
        "readable_paths": runner_pb2.Confinement(readable_paths=["/run/docker.sock"]),
    }.items():
        refused = await refusal_of(client, confinement=confinement)
        assert refused.code() == grpc.StatusCode.INVALID_ARGUMENT
        assert f"confinement.{field}" in (refused.details() or "")


@pytest.mark.parametrize("path", ["relative", "/up/../there", "/double//slash", "/end/", "/nul\0", "/" + "x" * 5000])
async def test_paths_that_are_not_plain_are_refused(start: StartService, path: str) -> None:
    client = await start([turn("Done.")])
    refused = await refusal_of(client, confinement=runner_pb2.Confinement(hidden_paths=[path]))
    assert "confinement.hidden_paths[0]" in (refused.details() or "")


async def test_a_level_that_cannot_be_had_ends_the_execution_before_any_tool_and_is_not_worth_retrying(
    start: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "bwrap" else which(name))
    client = await start([turn("", command("touch ran")), turn("Done.")])
    # A restricted thread might hold WORKSPACE, but not this.
    level = runner_pb2.Confinement(network=event_pb2.NETWORK_CONFINEMENT_PROXY, allowed_hosts=["example.com"])
    events = await client.execute(confinement=level)
    end = one(events, "finished")
    assert (end.state, end.error.code, end.error.retryable) == (event_pb2.STATE_FAILED, "SANDBOX_UNAVAILABLE", False)
    assert "install bubblewrap" in end.error.message
    assert not results_of(events)


def test_levels_combine_by_what_they_allow() -> None:
    least = Confinement(files="workspace", network="proxy", allowed_hosts=(AllowedHost.parse("*.example.com"),))
    assert least.tightened(Requested(files="strict")).files == "strict"
    assert least.tightened(Requested(network="none")).allowed_hosts == ()
    narrower = (AllowedHost.parse("a.example.com"),)
    assert least.tightened(Requested(allowed_hosts=narrower)).allowed_hosts == narrower
    for wider in ("example.com", "*.com", "a.example.com:8443", "10.0.0.1"):
        with pytest.raises(LooseningError):
            least.tightened(Requested(allowed_hosts=(AllowedHost.parse(wider),)))
    for one_level, other in (("read_only", "strict"), ("strict", "read_only"), ("strict", "workspace")):
        with pytest.raises(LooseningError):
            Confinement(files=one_level).tightened(Requested(files=other))  # type: ignore[arg-type]  # levels
    assert Confinement().tightened(Requested(network="none")).files == "workspace"


@needs_bubblewrap
async def test_a_refused_host_is_an_event_once_and_counted_in_the_end(start: StartService) -> None:
    ask = "curl -s http://denied.example/; curl -s http://denied.example/"
    client = await start([turn("", command(ask)), turn("Done.")])
    level = runner_pb2.Confinement(network=event_pb2.NETWORK_CONFINEMENT_PROXY, allowed_hosts=["example.com"])

    events = await client.execute(confinement=level)

    denied = one(events, "network_denied")
    assert (denied.host, denied.port) == ("denied.example", 80)
    assert b"not among the allowed hosts" in stdout_of(events)
    assert "denied.example 2 times" in one(events, "notice").text


async def test_hosts_that_are_none_are_refused(start: StartService) -> None:
    client = await start([turn("Done.")])
    level = runner_pb2.Confinement(
        network=event_pb2.NETWORK_CONFINEMENT_PROXY, allowed_hosts=["ok.example", "http://x"]
    )
    assert "confinement.allowed_hosts[1]" in ((await refusal_of(client, confinement=level)).details() or "")


@needs_bubblewrap
async def test_what_is_added_to_private_directories_counts_in_the_quota_and_the_account(start: StartService) -> None:
    turns = [turn("", command("head -c 3000000 /dev/zero > /tmp/much; sleep 60")), turn("Done.")]
    client = await start(turns, EXECUTION_MAX_BYTES="2000000")
    end = one(await client.execute(confinement=WORKSPACE), "finished")
    assert (end.state, end.error.code) == (event_pb2.STATE_FAILED, "LIMIT_EXCEEDED")
    assert "what its commands keep in /tmp and caches" in end.error.message
    assert end.usage.stored_bytes > 2_000_000  # it may have been measured while they were written


@needs_bubblewrap
async def test_a_write_outside_fails_with_a_line_that_names_the_wall(start: StartService) -> None:
    outside = Path.home() / f".written-by-{os.getpid()}"
    client = await start([turn("", command(f"touch {outside}")), turn("Done.")])
    (result,) = results_of(await client.execute(confinement=WORKSPACE))
    assert f"{outside} is closed by the confinement of this execution (files: workspace)" in result


@needs_bubblewrap
async def test_an_execution_is_resumed_inside_its_wall(start_process: StartProcess) -> None:
    outside = Path.home() / f".written-by-{os.getpid()}"
    turns = [
        turn("", command("echo kept > file; echo up; sleep 60")),
        turn("", command(f"cat file; touch {outside} || echo refused")),
        turn("Done."),
    ]
    service = await start_process(turns)
    call = service.stub.ExecuteAgent(service.client.request(execution_id="a", confinement=WORKSPACE))
    seen = await service.client.collect(call, until=lambda event: event.tool_output.stdout == b"up\n")
    service.process.kill()
    await service.ended()

    service = await start_process(turns)
    again = service.client.request(execution_id="a", confinement=WORKSPACE, after_sequence=len(seen))
    events = await service.client.collect(service.stub.ExecuteAgent(again))
    started = one(events, "started")
    assert started.resumed
    assert started.sandbox.confinement.mechanism.startswith("bwrap ")
    assert stdout_of(events) == b"kept\nrefused\n"
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED


async def serving(client: Client) -> int:
    async with grpc.aio.insecure_channel(client.service.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        return int((await stub.Check(health_pb2.HealthCheckRequest())).status)


async def test_a_service_whose_least_level_cannot_be_had_is_not_ready_and_refuses(
    start: StartService, monkeypatch: pytest.MonkeyPatch
) -> None:
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "bwrap" else which(name))
    least = {"SANDBOX_NETWORK": "proxy", "SANDBOX_ALLOWED_HOSTS": "example.com"}  # more than a thread can hold
    client = await start([turn("", command("touch ran")), turn("Done.")], SANDBOX_CONFINEMENT="workspace", **least)
    assert await serving(client) == health_pb2.HealthCheckResponse.NOT_SERVING
    events = await client.execute()
    assert one(events, "finished").error.code == "SANDBOX_UNAVAILABLE"
    assert not results_of(events)


@needs_bubblewrap
async def test_a_service_is_ready_once_its_least_level_is_proven(start: StartService) -> None:
    client = await start([turn("Done.")], SANDBOX_CONFINEMENT="workspace")
    async with asyncio.timeout(30):
        while await serving(client) != health_pb2.HealthCheckResponse.SERVING:
            await asyncio.sleep(0.05)
