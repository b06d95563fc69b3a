"""The worst night: killed, drained, restarted. Nothing is lost, nothing is left running, and the account is clear."""

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # it has types, but no marker
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status
from tests.running import Event, ServiceProcess, StartProcess, command, kinds, one, stdout_of, turn

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

WAITS = [turn("", command("echo $$; until [ -e go ]; do sleep 0.02; done; echo done")), turn("Done.")]


async def begin(service: ServiceProcess, name: str) -> tuple[Any, list[Event]]:
    call = service.stub.ExecuteAgent(service.client.request(execution_id=name))
    return call, await service.client.collect(call, until=lambda event: event.HasField("tool_output"))


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(60):
        with contextlib.suppress(psutil.NoSuchProcess):
            while psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
                await asyncio.sleep(0.02)


async def ends_with(call: Any, service: ServiceProcess) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await service.client.collect(call)
    return ended.value


def attach(name: str, after: int = 0) -> runner_pb2.ExecuteAgentRequest:
    return runner_pb2.ExecuteAgentRequest(execution_id=name, after_sequence=after)


async def test_after_a_kill_what_was_seen_is_there_and_nothing_runs(start_process: StartProcess) -> None:
    service = await start_process(WAITS)
    _, seen = await begin(service, "a")
    pid = int(stdout_of(seen))
    await service.kill()
    await until_gone(pid)

    again = await start_process()
    assert await again.client.state("a") == event_pb2.STATE_INTERRUPTED
    call = again.stub.WatchExecution(runner_pb2.WatchExecutionRequest(execution_id="a"))
    assert await again.client.collect(call, until=lambda event: event.sequence == len(seen)) == seen


async def test_whoever_only_watches_does_not_end_what_was_interrupted(start_process: StartProcess) -> None:
    service = await start_process(WAITS)
    _, seen = await begin(service, "a")
    await service.kill()
    again = await start_process()

    call = again.stub.WatchExecution(runner_pb2.WatchExecutionRequest(execution_id="a"))
    assert await again.client.collect(call, until=lambda event: event.HasField("tool_output")) == seen
    assert await again.client.state("a") == event_pb2.STATE_INTERRUPTED
    rest = asyncio.create_task(again.client.collect(call))
    await again.stub.CancelExecution(runner_pb2.CancelExecutionRequest(execution_id="a"))

    assert one(await rest, "finished").state == event_pb2.STATE_CANCELLED


async def test_a_drain_lets_executions_finish_and_refuses_new_ones(start_process: StartProcess, tmp_path: Path) -> None:
    service = await start_process(WAITS, DRAIN_TIMEOUT="20")
    call, seen = await begin(service, "a")
    service.process.send_signal(signal.SIGTERM)
    health: Any = health_pb2_grpc.HealthStub(service.channel)
    async with asyncio.timeout(60):
        while (await health.Check(health_pb2.HealthCheckRequest())).status == health_pb2.HealthCheckResponse.SERVING:
            await asyncio.sleep(0.01)

    refused = await ends_with(service.stub.ExecuteAgent(service.client.request(execution_id="b")), service)
    assert refused.code() == grpc.StatusCode.UNAVAILABLE
    status = rpc_status.from_call(refused)  # type: ignore[arg-type]  # it is a call too
    assert status is not None
    assert any(detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR) for detail in status.details)
    live = await health.Check(health_pb2.HealthCheckRequest(service="liveness"))
    assert live.status == health_pb2.HealthCheckResponse.SERVING

    attached = service.stub.ExecuteAgent(attach("a", len(seen)))
    assert await service.client.state("a") == event_pb2.STATE_RUNNING
    (tmp_path / "workspace" / "go").touch()
    rest, same = await asyncio.gather(service.client.collect(call), service.client.collect(attached))
    assert one(rest, "finished").state == event_pb2.STATE_SUCCEEDED
    assert same == rest
    assert await service.ended() == 0


async def test_a_drain_that_takes_too_long_leaves_executions_interrupted_and_nothing_running(
    start_process: StartProcess,
) -> None:
    service = await start_process(WAITS, DRAIN_TIMEOUT="0.2")
    call, seen = await begin(service, "a")
    service.process.send_signal(signal.SIGTERM)

    assert (await ends_with(call, service)).code() == grpc.StatusCode.UNAVAILABLE
    assert await service.ended() == 0
    assert not psutil.pid_exists(int(stdout_of(seen)))
    again = await start_process()
    assert await again.client.state("a") == event_pb2.STATE_INTERRUPTED


async def test_the_second_signal_does_not_wait(start_process: StartProcess) -> None:
    service = await start_process(WAITS, DRAIN_TIMEOUT="300")
    call, seen = await begin(service, "a")
    service.process.send_signal(signal.SIGTERM)
    await asyncio.sleep(0.3)
    assert service.process.returncode is None
    service.process.send_signal(signal.SIGINT)

    assert (await ends_with(call, service)).code() == grpc.StatusCode.UNAVAILABLE
    assert await service.ended() == 0
    assert not psutil.pid_exists(int(stdout_of(seen)))


async def test_finished_executions_survive_a_restart_whole(start_process: StartProcess) -> None:
    service = await start_process([turn("", command("seq 1000")), turn("Counted.")])
    whole = await service.client.execute(execution_id="a")
    await service.kill()
    again = await start_process()

    assert await again.client.execute(execution_id="a") == whole
    assert kinds(whole)[-1] == "finished"


async def test_a_second_service_on_the_same_state_says_so_and_stops(
    start_process: StartProcess, tmp_path: Path
) -> None:
    await start_process([turn("Hi.")])

    with pytest.raises(RuntimeError, match="exit code 75"):
        await start_process()


async def test_heavy_imports_come_after_the_service_serves(start_process: StartProcess) -> None:
    service = await start_process([turn("Hi.")])
    # A process that has just said that it serves has not mapped what the agent loop needs.
    maps = Path(f"/proc/{service.process.pid}/maps").read_text()  # noqa: ASYNC240  # a file of the kernel

    assert "grpc" in maps
    assert "tiktoken" not in maps
    assert "numpy" not in maps


async def test_what_it_says_on_stderr_names_the_execution_and_its_end(start_process: StartProcess) -> None:
    service = await start_process([turn("Hi.")], STDERR="yes")
    await service.client.execute(execution_id="named")
    service.process.send_signal(signal.SIGTERM)
    assert service.process.stderr is not None
    said = (await service.process.stderr.read()).decode()

    assert "execution_ended state=STATE_SUCCEEDED execution=named" in said
    assert "Traceback" not in said
