"""Temporal is away at the start or in the middle, or has no such namespace: gRPC is served, and executions go on."""

import asyncio
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.logged import errors
from tests.running import StartProcess, StartService, command, one, turn
from tests.scraping import metrics_url, scrape
from tests.stigmer.fake_daemon import KEY, FakeDaemon
from tests.temporal.daemon_workflow import Timeouts, daemon_worker, ended, invoke
from tests.temporal.server import TemporalServer, needs_temporal, temporal_server
from tests.temporal.waiting import GATE, open_gate, until_calls, until_health

from runner_service.check import Check, run_checks
from runner_service.settings import load_settings
from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2

pytestmark = needs_temporal


@pytest.fixture
async def temporal(tmp_path: Path) -> AsyncIterator[TemporalServer]:
    """A server of the test's own, which it may kill."""
    async with temporal_server(tmp_path) as server:
        yield server


async def unreachable(tmp_path: Path) -> float:
    """What the metrics say of Temporal."""
    return (await scrape(metrics_url(tmp_path / "state"))).value("runner_temporal_unreachable")


async def test_a_service_starts_without_temporal_and_takes_activities_when_it_is_there(
    start_process: StartProcess,
    daemon: FakeDaemon,
    temporal: TemporalServer,
    variables: dict[str, str],
    queue: str,
    tmp_path: Path,
) -> None:
    daemon.execution("aex-1")
    await temporal.kill()
    service = await start_process([turn("Done.")], **variables, METRICS_ADDRESS="127.0.0.1:0")
    await until_health(service.address, health_pb2.HealthCheckResponse.NOT_SERVING)
    assert one(await service.client.execute(), "finished").output == "Done."
    assert await unreachable(tmp_path) == 1

    await temporal.start()
    await until_health(service.address, health_pb2.HealthCheckResponse.SERVING)
    client = await temporal.client()
    async with daemon_worker(client, daemon, queue):
        assert await ended(await invoke(client, daemon, "aex-1", queue)) == "COMPLETED"
    assert await unreachable(tmp_path) == 0


async def test_an_execution_goes_on_while_temporal_is_away(
    start: StartService,
    daemon: FakeDaemon,
    temporal: TemporalServer,
    variables: dict[str, str],
    queue: str,
    tmp_path: Path,
) -> None:
    daemon.execution("aex-1")
    await start([turn("", command(GATE)), turn("Done.")], **variables)
    client = await temporal.client()
    async with daemon_worker(client, daemon, queue):
        handle = await invoke(client, daemon, "aex-1", queue, Timeouts(heartbeat=100))
        await until_calls(daemon, "aex-1")
        await temporal.kill()
        await asyncio.to_thread(open_gate, tmp_path)
        assert (await daemon.until_final("aex-1")).phase == execution_pb2.EXECUTION_COMPLETED

        await temporal.start()

        assert await ended(handle) == "COMPLETED"
    assert daemon.status("aex-1").phase == execution_pb2.EXECUTION_COMPLETED


async def checks_of(tmp_path: Path, **variables: str) -> dict[str, Check]:
    """The checks of a service with these variables."""
    environ = {"MODE": "local", "STATE_DIR": str(tmp_path / "state"), "SANDBOX_ROOT_DIR": str(tmp_path), **variables}
    environ |= {"LISTEN_ADDRESS": "localhost:0", "STIGMER_LLM_PROVIDER": "scripted"}
    return {each.name: each for each in await run_checks(load_settings(environ))}


async def test_check_tells_whether_temporal_answers_and_has_the_namespace(
    temporal: TemporalServer, tmp_path: Path
) -> None:
    address = {"TEMPORAL_SERVICE_ADDRESS": temporal.address}
    checks = await checks_of(tmp_path, **address)
    assert checks["TEMPORAL_SERVICE_ADDRESS"].status == "ok"
    assert "agent_execution_runner" in checks["TEMPORAL_SERVICE_ADDRESS"].text

    checks = await checks_of(tmp_path, **address, TEMPORAL_NAMESPACE="nowhere")
    assert checks["TEMPORAL_NAMESPACE"].status == "fail"

    await temporal.kill()
    checks = await checks_of(tmp_path, **address)
    assert checks["TEMPORAL_SERVICE_ADDRESS"].status == "warn"
    assert "cannot be reached" in checks["TEMPORAL_SERVICE_ADDRESS"].text

    assert not {name for name in await checks_of(tmp_path) if name.startswith("TEMPORAL")}


async def test_without_the_namespace_grpc_serves(
    start: StartService, temporal: TemporalServer, caplog: pytest.LogCaptureFixture
) -> None:
    client = await start([turn("Done.")], TEMPORAL_SERVICE_ADDRESS=temporal.address, TEMPORAL_NAMESPACE="nowhere")

    async with asyncio.timeout(30):
        while "temporal_worker_failed" not in caplog.text:
            await asyncio.sleep(0.05)
    assert one(await client.execute(), "finished").output == "Done."
    assert not [record for record in errors(caplog) if record.exc_info]


async def test_a_daemon_alone_does_not_turn_the_worker_on(start: StartService, daemon: FakeDaemon) -> None:
    client = await start([turn("Done.")], STIGMER_BACKEND_ENDPOINT=daemon.address, STIGMER_API_KEY=KEY)

    async with grpc.aio.insecure_channel(client.service.address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        with pytest.raises(grpc.aio.AioRpcError) as unknown:
            await stub.Check(health_pb2.HealthCheckRequest(service="temporal"))
    assert unknown.value.code() == grpc.StatusCode.NOT_FOUND


async def test_without_the_extra_it_is_a_warning_and_grpc_serves(
    start: StartService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setitem(sys.modules, "temporalio", None)  # as if it were not installed
    address = {"TEMPORAL_SERVICE_ADDRESS": "127.0.0.1:1"}

    client = await start([turn("Done.")], **address)

    assert one(await client.execute(), "finished").output == "Done."
    assert "temporal_not_installed" in caplog.text
    assert (await checks_of(tmp_path, **address))["TEMPORAL_SERVICE_ADDRESS"].next_step.startswith("install")
