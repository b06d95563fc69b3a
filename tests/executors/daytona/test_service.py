"""The whole service in cloud mode, from a caller's request to processes in a sandbox and back."""

import asyncio
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from tests.agent.capabilities import notices
from tests.emulator import API_KEY, Cloud
from tests.executors.daytona.test_sandboxes import settled
from tests.running import (
    Client,
    Event,
    ServiceProcess,
    StartProcess,
    StartService,
    command,
    kinds,
    one,
    stdout_of,
    turn,
)

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import approval_policy_pb2 as policy_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2


def in_cloud(cloud: Cloud, **more: str) -> dict[str, str]:
    block = {
        "MODE": "cloud",
        "DAYTONA_API_KEY": API_KEY,
        "DAYTONA_API_URL": cloud.api_url,
        "STIGMER_API_KEY": "stk-key",
    }
    return {**block, "REDIS_HOST": "", "DRAIN_TIMEOUT": "0", **more}


async def test_an_agents_tools_run_in_a_sandbox(start: StartService, cloud: Cloud) -> None:
    turns = [
        turn(
            "", command("echo out; echo $WHO > file; exit 3"), ("write_file", {"file_path": "/a.txt", "content": "x"})
        ),
        turn("", ("read_file", {"file_path": "/file"})),
        turn("It says {{last_tool_result}}"),
    ]
    client = await start(turns, **in_cloud(cloud))
    events = await client.execute(environment={"WHO": runner_pb2.EnvironmentValue(value="the caller")})

    started = one(events, "started")
    assert (started.mode, started.sandbox.type) == ("cloud", "daytona")
    assert started.sandbox.process_control.startswith("subreaper+tag+guardian")
    assert stdout_of(events) == b"out\n"
    finished = one(events, "finished")
    assert finished.state == event_pb2.STATE_SUCCEEDED
    assert "the caller" in finished.output
    await settled(cloud)


async def test_limits_hold_in_a_sandbox_and_are_told(start: StartService, cloud: Cloud) -> None:
    hog = "echo big; head -c 200m /dev/zero | tail -c 200m | sleep 30"
    many = "for i in $(seq 60); do sleep 30 & done; wait"
    left = f"(while kill -0 $$; do sleep 0.02; done; {many}) > /dev/null 2>&1 & echo $! > left"
    until_ended = "while kill -0 $(cat left); do sleep 0.02; done 2> /dev/null"
    turns = [turn("", command(hog)), turn("", command(left)), turn("", command(until_ended)), turn("Done.")]
    limits = {"SANDBOX_MAX_MEMORY_BYTES": "100000000", "SANDBOX_MAX_PROCESSES": "50"}
    client = await start(turns, **in_cloud(cloud, **limits))
    events = await client.execute()
    ended = [each.tool_call_finished for each in events if each.HasField("tool_call_finished")]
    assert ended[0].outcome == event_pb2.TOOL_OUTCOME_LIMIT_EXCEEDED
    assert "SANDBOX_MAX_MEMORY_BYTES" in ended[0].result
    assert [each.outcome for each in ended[1:]] == 2 * [event_pb2.TOOL_OUTCOME_SUCCEEDED]
    [(code, text)] = notices(events)
    assert (code, "more than 50 processes" in text) == ("LIMIT_EXCEEDED", True)
    assert stdout_of(events) == b"big\n"


async def test_the_key_is_in_no_event_no_log_and_no_sandbox(
    start: StartService, cloud: Cloud, caplog: pytest.LogCaptureFixture
) -> None:
    look = "cat /proc/$PPID/environ; env; grep -ra dtn_emul $HOME . ; env | grep -c dtn_"
    cloud.faults.add(r"POST .*/process/execute", "502", 1, skip=2)
    client = await start([turn("", command(look)), turn(f"The key is {API_KEY}.")], **in_cloud(cloud))
    events = await client.execute()
    assert API_KEY not in str(events)
    assert API_KEY not in caplog.text
    assert stdout_of(events).endswith(b"0\n")
    assert "[redacted:secret]" in one(events, "finished").output


async def test_a_key_that_is_refused_ends_executions_by_name(cloud: Cloud, start: StartService) -> None:
    client = await start([turn("Hi.")], **in_cloud(cloud, DAYTONA_API_KEY="dtn_another_key"))
    events = await client.execute()
    error = one(events, "finished").error
    assert (error.code, error.retryable) == ("SANDBOX_UNAUTHENTICATED", False)
    assert "dtn_another_key" not in str(events)


WAIT = "until [ -e go ]; do sleep 0.02; done"
SCRIPT = f"echo once >> effects; for i in 1 2 3; do seq 3000; done; {WAIT}; echo the end; exit 3"
EXPECTED = b"".join(b"%d\n" % number for number in range(1, 3001)) * 3 + b"the end\n"


async def seen_running(service: ServiceProcess) -> list[Event]:
    request = service.client.request(execution_id="a", disconnect_policy=runner_pb2.DISCONNECT_POLICY_DETACH)
    return await service.client.collect(
        service.stub.ExecuteAgent(request), until=lambda event: event.HasField("tool_output")
    )


async def went_on(service: ServiceProcess, cloud: Cloud, seen: list[Event]) -> None:
    """Attaches, lets the command end, and checks that nothing was missed, repeated or run twice."""
    attached = asyncio.create_task(
        service.client.collect(
            service.stub.ExecuteAgent(runner_pb2.ExecuteAgentRequest(execution_id="a", after_sequence=len(seen)))
        )
    )
    (remote,) = cloud.sandboxes.values()
    await service.client.started("a")
    (remote.work / "go").touch()
    events = seen + await attached
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert stdout_of(events) == EXPECTED
    call: Any = one(events, "tool_call_finished")
    assert (call.outcome, call.exit_code) == (event_pb2.TOOL_OUTCOME_FAILED, 3)
    assert "[Command failed with exit code 3]" in one(events, "finished").output
    assert kinds(events).count("tool_call_started") == 1
    assert cloud.created == 1


TURNS = [turn("", command(SCRIPT)), turn("I was told: {{last_tool_result}}")]


async def test_a_command_goes_on_over_the_death_of_the_service(start_process: StartProcess, cloud: Cloud) -> None:
    service = await start_process(TURNS, **in_cloud(cloud))
    seen = await seen_running(service)
    await service.kill()
    (remote,) = cloud.sandboxes.values()
    await went_on(await start_process(**in_cloud(cloud)), cloud, seen)
    await settled(cloud)
    assert not remote.work.exists()


async def test_a_command_goes_on_over_a_drain(start_process: StartProcess, cloud: Cloud) -> None:
    service = await start_process(TURNS, **in_cloud(cloud))
    seen = await seen_running(service)
    service.process.send_signal(signal.SIGTERM)
    assert await service.ended() == 0
    await went_on(await start_process(**in_cloud(cloud)), cloud, seen)


async def test_an_outage_that_lasts_longer_than_the_setting_ends_the_execution(
    cloud: Cloud, start: StartService
) -> None:
    turns = [turn("", command(f"echo up; {WAIT}")), turn("", command("true")), turn("Done.")]
    client = await start(turns, **in_cloud(cloud, DAYTONA_OUTAGE_TIMEOUT="1"))
    call = client.stub.ExecuteAgent(client.request(execution_id="a", session_id="s"))
    seen = await client.collect(call, until=lambda event: event.HasField("tool_output"))
    cloud.faults.is_api_away, cloud.faults.proxy_remembers = True, False
    [remote] = cloud.sandboxes.values()
    (remote.work / "go").touch()
    request = runner_pb2.ExecuteAgentRequest(execution_id="a", after_sequence=len(seen))
    error = one(await client.collect(client.stub.ExecuteAgent(request)), "finished").error
    cloud.faults.is_api_away, cloud.faults.proxy_remembers = False, True
    assert (error.code, error.retryable) == ("SANDBOX_UNAVAILABLE", True)


async def test_a_command_whose_sandbox_was_stopped_meanwhile_is_called_unknown(
    start_process: StartProcess, cloud: Cloud
) -> None:
    turns = [turn("", command(SCRIPT)), turn("I was told: {{last_tool_result}}")]
    request: dict[str, Any] = {"execution_id": "a", "session_id": "s"}
    service = await start_process(turns, **in_cloud(cloud))
    call = service.stub.ExecuteAgent(service.client.request(**request))
    await service.client.collect(call, until=lambda event: event.HasField("tool_output"))
    await service.kill()
    (remote,) = cloud.sandboxes.values()
    await cloud.stop(remote)

    again = await start_process(**in_cloud(cloud))
    events = await again.client.collect(again.stub.ExecuteAgent(runner_pb2.ExecuteAgentRequest(execution_id="a")))
    assert one(events, "tool_call_finished").outcome == event_pb2.TOOL_OUTCOME_INTERRUPTED
    assert "SANDBOX_RESTARTED" in [event.notice.code for event in events]
    assert "how far it came is not known" in one(events, "finished").output
    assert (remote.work / "effects").read_text() == "once\n"


ASK = policy_pb2.ApprovalPolicy(mode=policy_pb2.APPROVAL_MODE_ASK_COMMANDS)


async def parked(client: Client, **fields: Any) -> tuple[Any, str]:
    """Starts execution `a`, whose command is asked about; returns its call and the tool call, once it is WAITING."""
    call = client.stub.ExecuteAgent(client.request(execution_id="a", approval_policy=ASK, **fields))
    events = await client.collect(call, until=lambda event: event.HasField("approval_requested"))
    async with asyncio.timeout(60):
        while await client.state("a") != event_pb2.STATE_WAITING:
            await asyncio.sleep(0.02)
    return call, events[-1].approval_requested.tool_call_id


@pytest.mark.parametrize("session_id", ["", "s"])
async def test_the_sandbox_of_an_execution_that_waits_for_approval_is_stopped_and_started_again_on_the_decision(
    start: StartService, cloud: Cloud, session_id: str
) -> None:
    turns = [
        turn("", ("write_file", {"file_path": "/a.txt", "content": "kept"})),
        turn("", command("cat a.txt")),
        turn("It says {{last_tool_result}}"),
    ]
    client = await start(turns, **in_cloud(cloud, APPROVAL_HOLD="0"))
    call, tool_call_id = await parked(client, session_id=session_id)
    (sandbox,) = cloud.sandboxes.values()
    assert (sandbox.state, sandbox.parameters["autoDeleteInterval"], sandbox.parameters["ttlMinutes"]) == (
        "stopped",
        31 * 24 * 60,
        0,
    )
    assert float(sandbox.labels["runner-service-lease"]) > time.time() + 30 * 86_400

    await client.stub.SubmitApproval(
        runner_pb2.SubmitApprovalRequest(
            execution_id="a", tool_call_id=tool_call_id, action=event_pb2.APPROVAL_ACTION_APPROVE
        )
    )

    assert "kept" in one(await client.collect(call), "finished").output
    assert cloud.created == 1
    if session_id:
        assert sandbox.parameters["autoDeleteInterval"] == 7 * 24 * 60
        assert "runner-service-parked" not in sandbox.labels
    else:
        await settled(cloud)


async def test_the_sandbox_of_an_execution_that_is_cancelled_while_it_waits_is_deleted(
    start: StartService, cloud: Cloud
) -> None:
    client = await start([turn("", command("true")), turn("Done.")], **in_cloud(cloud, APPROVAL_HOLD="0"))
    await parked(client)

    await client.stub.CancelExecution(runner_pb2.CancelExecutionRequest(execution_id="a"))

    await settled(cloud)


async def test_a_cancel_leaves_no_process_and_no_sandbox(start: StartService, cloud: Cloud) -> None:
    client = await start([turn("", command("setsid -f sleep 84.01; echo up; sleep 84.01"))], **in_cloud(cloud))
    call = client.stub.ExecuteAgent(client.request(execution_id="a"))
    await client.collect(call, until=lambda event: event.HasField("tool_output"))
    await client.stub.CancelExecution(runner_pb2.CancelExecutionRequest(execution_id="a"))
    events = await client.collect(client.stub.ExecuteAgent(runner_pb2.ExecuteAgentRequest(execution_id="a")))
    assert one(events, "finished").state == event_pb2.STATE_CANCELLED
    await settled(cloud)
    assert not await asyncio.to_thread(subprocess.getoutput, "pgrep -fx 'sleep 84.01'")


async def test_the_sdk_reads_no_dotenv_and_takes_no_telemetry(cloud: Cloud, tmp_path: Path) -> None:
    """In a process of its own, in a directory with a hostile `.env`."""
    (tmp_path / ".env").write_text(
        "DAYTONA_TARGET=hostile\nDAYTONA_API_KEY=hostile\nDAYTONA_OTEL_ENABLED=true\nDAYTONA_EXPERIMENTAL_OTEL_ENABLED=true\n"
    )
    script = f"""
import asyncio, json, sys
import runner_service.app, runner_service.executors.daytona.factory
early = "daytona" in sys.modules
from runner_service.settings import SecretStr
from opentelemetry import trace
from runner_service.executors.protocol import SandboxSpec
from runner_service.executors.daytona.config import SandboxConfig
from runner_service.executors.daytona.executor import Account, daytona_executor
async def main():
    async with daytona_executor(Account(SecretStr({API_KEY!r}), {cloud.api_url!r}), SandboxConfig()) as executor:
        async with executor.open(SandboxSpec("e")):
            print(json.dumps([early, "daytona" in sys.modules, type(trace.get_tracer_provider()).__name__]))
asyncio.run(main())
"""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, cwd=tmp_path, stdout=asyncio.subprocess.PIPE
    )
    stdout, _ = await process.communicate()
    assert json.loads(stdout) == [False, True, "ProxyTracerProvider"]
    assert process.returncode == 0
    creates = [request for request in cloud.requests if request == "POST /api/sandbox"]
    assert len(creates) == 1
    assert cloud.targets == [None]
