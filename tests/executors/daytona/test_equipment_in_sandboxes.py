"""What an agent comes with, in cloud mode: skills, MCP servers and sub-agents."""

import asyncio
import signal
from pathlib import Path

import psutil
from tests.agent.capabilities import agent, notices, results, stdio, zip_archive
from tests.agent.http_mcp import served_over_http
from tests.emulator import Cloud
from tests.executors.daytona.test_sandboxes import settled
from tests.executors.daytona.test_service import in_cloud
from tests.running import StartProcess, StartService, command, kinds, one, stdout_of, turn

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

SECRET = {"KEY": runner_pb2.EnvironmentValue(value="s3cret-value", is_secret=True)}


async def test_a_stdio_server_runs_in_the_sandbox_and_ends_with_the_execution(
    start: StartService, cloud: Cloud
) -> None:
    client = await start(
        [
            turn("", ("where", {})),
            turn("", ("variable", {"name": "TOKEN"})),
            turn("", ("add", {"a": 20, "b": 22})),
            turn("It is {{last_tool_result}}."),
        ],
        **in_cloud(cloud),
    )
    server = stdio(environment={"TOKEN": "Bearer ${KEY}"})

    call = client.stub.ExecuteAgent(
        client.request(agent=agent(mcp_servers=[server]), environment=SECRET, session_id="s")
    )
    events = await client.collect(call)

    assert not notices(events)
    pid, directory = results(events)[0].split(" ", 1)
    [remote] = cloud.sandboxes.values()
    assert Path(directory) == remote.work
    assert results(events)[1] == "TOKEN=Bearer [redacted:secret]"
    assert one(events, "finished").output == "It is the sum is 42."
    assert not psutil.pid_exists(int(pid))


async def test_what_a_stdio_server_does_badly_is_told_in_cloud_mode_too(start: StartService, cloud: Cloud) -> None:
    missing = runner_pb2.McpServer(name="boxed", stdio=runner_pb2.StdioServer(command="no-docker", args=["run"]))
    turns = [turn("", ("die", {})), turn("", ("add", {"a": 1, "b": 1})), turn("", command("echo works")), turn("Ok.")]
    client = await start(turns, **in_cloud(cloud))

    events = await client.execute(agent=agent(mcp_servers=[stdio(), missing]))

    [(code, text)] = notices(events)
    assert code == "MCP_SERVER_UNAVAILABLE"
    assert "it needs no-docker, which is not installed where the agent's commands run" in text
    assert "farewell" in results(events)[0]
    assert "MCP server test failed" in results(events)[1]
    assert stdout_of(events) == b"works\n"
    await settled(cloud)


async def test_a_server_over_http_is_called_by_the_service_and_not_from_the_sandbox(
    start: StartService, cloud: Cloud, unused_tcp_port: int
) -> None:
    seen: list[tuple[str, str]] = []
    client = await start(
        [turn("", ("add", {"a": 20, "b": 22})), turn("Ok.")], **in_cloud(cloud, MCP_ALLOWED_NETWORKS="127.0.0.0/8")
    )
    async with served_over_http(unused_tcp_port, seen) as url:
        http = runner_pb2.HttpServer(url=f"{url}/mcp", headers={"X-Key": "${KEY}"})
        events = await client.execute(
            agent=agent(mcp_servers=[runner_pb2.McpServer(name="web", http=http)]), environment=SECRET
        )

    assert results(events) == ["the sum is 42"]
    assert ("/mcp?", "s3cret-value") in seen
    assert not [request for request in cloud.requests if str(unused_tcp_port) in request]
    await settled(cloud)


async def test_a_skill_has_its_files_in_the_sandbox_and_what_can_be_run_can_be_run(
    start: StartService, cloud: Cloud
) -> None:
    files = zip_archive(
        {"scripts/hello.sh": b"#!/bin/sh\necho hello from $0\n", "data.bin": bytes(range(256))},
        modes={"data.bin": 0o100644},
    )
    skill = runner_pb2.Skill(name="greeting", version="v-1", content="# Greeting\nRun hello.sh.", archive=files)
    look = "cd bin/skills/v-1 && scripts/hello.sh && cat SKILL.md && test ! -x data.bin && sha256sum < data.bin"
    client = await start([turn("", command(look)), turn("Ok.")], **in_cloud(cloud))

    events = await client.execute(agent=agent(skills=[skill]))

    assert not notices(events)
    said, _, digest = stdout_of(events).decode().rpartition("hello.sh.")
    assert said == "hello from scripts/hello.sh\n# Greeting\nRun "
    assert digest.split()[0] == "40aff2e9d2d8922e47afd4648e6967497158785fbd1da870e7110266bf944880"
    await settled(cloud)


async def test_a_sub_agent_has_its_own_tools_and_skills_in_the_sandbox(start: StartService, cloud: Cloud) -> None:
    sub_agent = runner_pb2.SubAgent(
        name="adder",
        description="Adds.",
        instructions="You add.",
        mcp_servers=["test"],
        tool_selections={"test": runner_pb2.ToolSelection(enabled_tools=["add"])},
        skills=[runner_pb2.Skill(name="sums", version="v-sums", content="How to add.")],
    )
    inside = [turn("", ("add", {"a": 2, "b": 2}), command("cat bin/skills/v-sums/SKILL.md")), turn("Four.")]
    turns = {
        "turns": [turn("", ("task", {"description": "add", "subagent_type": "adder"})), turn("{{last_tool_result}}")],
        "sub_agents": [{"name": "adder", "turns": inside}],
    }
    client = await start(turns, **in_cloud(cloud))

    events = await client.execute(agent=agent(mcp_servers=[stdio()], sub_agents=[sub_agent]))

    task = next(event.tool_call_started.tool_call_id for event in events if event.tool_call_started.name == "task")
    of_the_sub_agent = [event for event in events if event.sub_agent_id == task]
    assert "the sum is 4" in results(of_the_sub_agent)
    assert stdout_of(of_the_sub_agent) == b"How to add."
    assert one(events, "finished").output == "Four."
    await settled(cloud)


async def test_a_stdio_server_goes_with_a_service_that_drains_and_comes_back_with_the_next(
    start_process: StartProcess, cloud: Cloud
) -> None:
    waiting = command("echo up; until [ -e go ]; do sleep 0.02; done")
    turns = [turn("", ("where", {})), turn("", waiting), turn("", ("where", {})), turn("Ok.")]
    service = await start_process(turns, **in_cloud(cloud))
    request = service.client.request(
        execution_id="a",
        session_id="s",
        agent=agent(mcp_servers=[stdio()]),
        disconnect_policy=runner_pb2.DISCONNECT_POLICY_DETACH,
    )
    seen = await service.client.collect(
        service.stub.ExecuteAgent(request), until=lambda event: event.HasField("tool_output")
    )
    first = int(results(seen)[0].split()[0])
    assert psutil.pid_exists(first)

    service.process.send_signal(signal.SIGTERM)
    assert await service.ended() == 0
    async with asyncio.timeout(60):
        while psutil.pid_exists(first):
            await asyncio.sleep(0.02)

    again = await start_process(**in_cloud(cloud))
    attached = asyncio.create_task(
        again.client.collect(again.stub.ExecuteAgent(runner_pb2.ExecuteAgentRequest(execution_id="a")))
    )
    await again.client.started("a")
    [remote] = cloud.sandboxes.values()
    await asyncio.to_thread((remote.work / "go").touch)
    events = await attached

    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
    assert kinds(events).count("tool_call_started") == 3
    second = int(results(events)[-1].split()[0])
    assert second != first
    assert not psutil.pid_exists(second)
