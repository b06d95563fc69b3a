"""T5: the daemon starts the service, hands it executions by their ids, and sees every one of them to its right end."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import grpc
import yaml
from tests.agent.capabilities import SERVER, zip_archive
from tests.running import ServiceProcess, command, stdout_of, turn
from tests.stigmer.fake_daemon import FINAL, KEY, FakeDaemon
from tests.stigmer.test_by_id import by_id

from runner_service.cli.secret_variables import write_secrets
from runner_service.stigmer.wire import agent_pb2, agentexecution_pb2_grpc, apiresource_pb2
from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2
from runner_service.v1 import agent_runner_pb2 as runner_pb2

SECRET = "s3cret-of-the-vault"
RUNNING, COMPLETED = execution_pb2.TOOL_CALL_RUNNING, execution_pb2.TOOL_CALL_COMPLETED
NOT_BEGUN = {execution_pb2.EXECUTION_PHASE_UNSPECIFIED, execution_pb2.EXECUTION_PENDING}
GATE = "until [ -e go ]; do sleep 0.02; done"

TURNS = {
    "turns": [
        turn("First the skill. ", command("bin/skills/v-1/scripts/greet.sh")),
        turn("", ("variable", {"name": "TOKEN"})),
        turn("", ("task", {"description": "add", "subagent_type": "adder"})),
        turn("", command("echo before >> marks")),
        turn("", command(GATE)),
        turn("", command("echo after >> marks; cat marks")),
        turn("All done: {{last_tool_result}}"),
    ],
    "sub_agents": [{"name": "adder", "turns": [turn("", ("add", {"a": 40, "b": 2})), turn("42")]}],
}


async def test_a_daemon_sees_every_execution_to_its_end(daemon: FakeDaemon, tmp_path: Path) -> None:
    fill(daemon)
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        watching, watching_other = (
            asyncio.create_task(seen_by_subscribing(channel, name)) for name in ("aex-work", "aex-other")
        )
        async with started_by(daemon, tmp_path) as service:
            first = asyncio.create_task(by_id(service.client, "aex-work"))
            other = asyncio.create_task(by_id(service.client, "aex-other"))
            await until_calls(daemon, "aex-work", 6)
            await service.client.started("aex-other")
            await service.stub.CancelExecution(runner_pb2.CancelExecutionRequest(execution_id="aex-other"))
            await other
            await daemon.until_final("aex-other")
            await service.kill()
            await asyncio.gather(first, return_exceptions=True)
        assert daemon.status("aex-work").phase == execution_pb2.EXECUTION_IN_PROGRESS

        async with started_by(daemon, tmp_path, RESUME_ON_START="true") as service:
            await asyncio.to_thread((tmp_path / "workspace" / "ses-aex-work" / "go").touch)
            await daemon.until_final("aex-work")
            events = await by_id(service.client, "aex-work")
        async with asyncio.timeout(60):
            seen, seen_other = await watching, await watching_other

    assert stdout_of(events) == b"hello from a skill\nbefore\nafter\n"
    check_work(seen[-1])
    check_cancelled(seen_other[-1])
    assert phases(seen) == [execution_pb2.EXECUTION_IN_PROGRESS, execution_pb2.EXECUTION_COMPLETED]
    assert phases(seen_other)[-1] == execution_pb2.EXECUTION_CANCELLED
    assert {RUNNING, COMPLETED} <= {call.status for status in seen for call in status.tool_calls}
    assert not [each for each in daemon.reports if SECRET.encode() in each.SerializeToString()]
    assert daemon.keys == {f"Bearer {KEY}", ""}  # the empty one is our own subscription


def check_work(status: execution_pb2.AgentExecutionStatus) -> None:
    """All of it, each thing once, and the command that the kill has interrupted as that."""
    assert [(call.name, call.status) for call in status.tool_calls] == [
        ("execute", COMPLETED),
        ("variable", COMPLETED),
        ("task", COMPLETED),
        ("add", COMPLETED),
        ("execute", COMPLETED),
        ("execute", execution_pb2.TOOL_CALL_FAILED),
        ("execute", COMPLETED),
    ]
    calls = {call.name: call for call in status.tool_calls}
    assert status.tool_calls[5].error == "interrupted"
    assert calls["variable"].result == "TOKEN=[redacted:secret]"
    assert calls["add"].result == "the sum is 42"
    assert [(each.name, each.output, each.status) for each in status.sub_agent_executions] == [
        ("adder", "42", execution_pb2.SUB_AGENT_COMPLETED)
    ]
    assert status.messages[0].content == "do it all"
    assert status.messages[-1].content.startswith("All done: before\nafter")
    assert "" < status.started_at <= status.completed_at
    assert not status.error


def check_cancelled(status: execution_pb2.AgentExecutionStatus) -> None:
    """What was cancelled while it ran."""
    assert status.error.startswith("CANCELLED: ")
    assert status.completed_at
    assert status.messages[0].content == "this too"
    assert RUNNING not in {call.status for call in status.tool_calls}


def phases(seen: Sequence[execution_pb2.AgentExecutionStatus]) -> list[int]:
    """The phases in the order in which they came, from its beginning."""
    return [phase for phase, _ in groupby(status.phase for status in seen) if phase not in NOT_BEGUN]


def fill(daemon: FakeDaemon) -> None:
    """Gives the daemon two executions of an agent with a skill, an MCP server, a sub-agent and a secret."""
    files = zip_archive({"scripts/greet.sh": b"#!/bin/sh\necho hello from a skill\n"})
    daemon.skill("greeting", "Run scripts/greet.sh.", version="v-1", archive=files)
    daemon.environment("vault", {"VAULT_TOKEN": SECRET}, secret=True)
    stdio = agent_pb2.StdioServer(command=sys.executable, args=[SERVER], env_placeholders={"TOKEN": "${VAULT_TOKEN}"})
    daemon.agent(
        skill_refs=[apiresource_pb2.ApiResourceReference(slug="greeting")],
        mcp_servers=[agent_pb2.McpServerDefinition(name="tools", stdio=stdio)],
        sub_agents=[agent_pb2.SubAgent(name="adder", description="Adds.", mcp_servers=["tools"])],
    )
    daemon.execution("aex-work", "do it all")
    daemon.execution("aex-other", "this too")
    daemon.instance("vault")


async def seen_by_subscribing(channel: grpc.aio.Channel, name: str) -> list[execution_pb2.AgentExecutionStatus]:
    """The statuses that the daemon shows to a subscriber, until the end."""
    stub: Any = agentexecution_pb2_grpc.AgentExecutionQueryControllerStub(channel)
    call = stub.subscribe(execution_pb2.AgentExecutionId(value=name))
    seen: list[execution_pb2.AgentExecutionStatus] = []
    async for execution in call:
        seen.append(execution.status)
        if execution.status.phase in FINAL:
            call.cancel()
            break
    return seen


async def until_calls(daemon: FakeDaemon, name: str, count: int) -> None:
    """Waits until so many tool calls have been reported."""
    async with asyncio.timeout(60):
        while len(daemon.status(name).tool_calls) < count:
            await daemon.changed()


@asynccontextmanager
async def started_by(daemon: FakeDaemon, tmp_path: Path, **variables: str) -> AsyncIterator[ServiceProcess]:
    """The service, started as the daemon starts it: local mode, its own endpoint, keys over a pipe."""
    script = tmp_path / "script.yaml"
    await asyncio.to_thread(script.write_text, yaml.safe_dump(TURNS))
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "MODE": "local",
        "SANDBOX_TYPE": "filesystem",
        "SANDBOX_SCOPE": "session",
        "SANDBOX_ROOT_DIR": str(tmp_path / "workspace"),
        "STATE_DIR": str(tmp_path / "state"),
        "STIGMER_BACKEND_ENDPOINT": daemon.address,
        "STIGMER_LLM_PROVIDER": "scripted",
        "STIGMER_LLM_SCRIPT": str(script),
        "LISTEN_ADDRESS": "127.0.0.1:0",
        **variables,
    }
    ready, announce = os.pipe()
    keys = write_secrets({"STIGMER_API_KEY": KEY})
    arguments = ["-m", "runner_service", "serve", "--ready-fd", str(announce), "--secrets-fd", str(keys)]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments, env=environ, pass_fds=[announce, keys])
    os.close(announce)
    os.close(keys)
    with os.fdopen(ready) as stream:
        line = await asyncio.to_thread(stream.readline)
    service = ServiceProcess(process, json.loads(line)["address"])
    try:
        yield service
    finally:
        await service.channel.close()
        if process.returncode is None:
            process.terminate()
            await service.ended()
