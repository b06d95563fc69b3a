"""The stages of a stop, by signals and by request."""

import asyncio
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2
from tests.probe import SERVICE, failure_of, serving

from runner_service.executions.readiness import Stage
from runner_service.server import StopRequests, announce_ready, stop_signals


async def test_a_stop_goes_through_its_stages_in_order() -> None:
    requests, stages = StopRequests(), []
    async with serving() as probe:

        async def drain(timeout: float) -> None:  # noqa: ASYNC109  # as the server calls it
            stages.append((probe.readiness.stage, timeout))
            await probe.call("calls pass while draining")

        stopping = asyncio.create_task(
            probe.server.serve_until_stopped(requests, drain, lame_duck=0.01, drain_timeout=7)
        )
        await probe.call()
        requests.request()
        await stopping
        assert stages == [(Stage.DRAINING, 7)]
        assert probe.readiness.stage is Stage.STOPPED
        assert (await failure_of(probe.call())).code() is grpc.StatusCode.UNAVAILABLE


async def test_health_shows_the_drain_before_it_begins_to_wait() -> None:
    requests = StopRequests()
    async with serving() as probe:
        watch = probe.health.Watch(health_pb2.HealthCheckRequest())
        await watch.read()

        async def drain(_: float) -> None:
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING

        requests.request()
        await probe.server.serve_until_stopped(requests, drain, lame_duck=0, drain_timeout=7)
        assert await watch.read() is grpc.aio.EOF


async def test_a_server_is_not_idle_while_a_call_is_open_nor_just_after_one() -> None:
    async with serving() as probe:
        watch = probe.health.Watch(health_pb2.HealthCheckRequest())
        await watch.read()
        idle = asyncio.create_task(probe.server.idle(2, lambda: False))
        assert not (await asyncio.wait([idle], timeout=3))[0], "a call was open"
        watch.cancel()

        calls = 0
        while not (await asyncio.wait([idle], timeout=0.05))[0] and calls < 60:
            await probe.call()
            calls += 1
        assert calls == 60, "a call had just ended"

        await idle


async def test_the_second_request_cancels_the_drain_and_waits_for_its_clean_up() -> None:
    requests, steps = StopRequests(), []
    async with serving() as probe:

        async def drain(_: float) -> None:
            requests.request()
            try:
                await asyncio.Event().wait()
            finally:
                await asyncio.sleep(0.05)
                steps.append("cleaned up")

        requests.request()
        async with asyncio.timeout(60):
            await probe.server.serve_until_stopped(requests, drain, lame_duck=0, drain_timeout=1000)
        assert steps == ["cleaned up"]
        assert probe.readiness.stage is Stage.STOPPED


async def test_the_second_request_also_ends_the_lame_duck_pause() -> None:
    requests = StopRequests()

    async def drain(_: float) -> None:
        raise AssertionError("never reached")

    async with serving() as probe:
        requests.request()
        requests.request()
        async with asyncio.timeout(60):
            await probe.server.serve_until_stopped(requests, drain, lame_duck=1000, drain_timeout=1000)


async def test_a_drain_that_fails_is_told_and_the_server_stops_all_the_same() -> None:
    requests = StopRequests()

    async def drain(_: float) -> None:
        raise OSError("disk full")

    requests.request()
    with pytest.raises(OSError, match="disk full"):
        async with serving() as probe:
            await probe.server.serve_until_stopped(requests, drain, lame_duck=0, drain_timeout=1)
    assert probe.readiness.stage is Stage.STOPPED


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_each_signal_is_a_request_while_the_context_lasts(number: signal.Signals) -> None:
    before = signal.getsignal(number)
    with stop_signals() as requests:
        os.kill(os.getpid(), number)
        async with asyncio.timeout(60):
            await requests.first()
            os.kill(os.getpid(), number)
            await requests.second()
    assert signal.getsignal(number) in {before, signal.default_int_handler, signal.SIG_DFL}


async def test_who_spawned_the_service_is_told_where_it_is_once_and_whole(tmp_path: Path) -> None:
    file, (reading, writing) = tmp_path / "ready.json", os.pipe()
    async with announce_ready("localhost:1", fd=writing, file=file):
        with os.fdopen(reading) as stream:
            told = stream.read()
        assert told.endswith("\n")
        assert told == file.read_text()
        assert json.loads(told) == {"address": "localhost:1", "pid": os.getpid(), "version": "0.1.0"}
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240  # nothing else runs


async def test_a_link_in_the_way_of_the_ready_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / f".ready.json.{os.getpid()}").symlink_to(tmp_path / "precious")
    async with announce_ready("localhost:1", file=tmp_path / "ready.json"):
        assert not (tmp_path / "ready.json").is_symlink()
    assert not (tmp_path / "precious").exists()


async def test_the_ready_file_of_a_successor_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "ready.json"
    async with announce_ready("localhost:1", file=file):
        file.write_text("the successor's")
    assert file.read_text() == "the successor's"


_SERVE_AND_TELL = f"""
import asyncio, json, sys
from runner_service.server import running_server
from runner_service.executions.readiness import Readiness
from runner_service.settings import load_settings
from runner_service.telemetry import telemetry

async def main(settings):
    readiness = Readiness()
    async with running_server(
        settings, add_services=lambda server: None, service_names=["{SERVICE}"], readiness=readiness
    ):
        readiness.set_serving()
        print(json.dumps(sorted(sys.modules)))

settings = load_settings({{"MODE": "local", "LISTEN_ADDRESS": "localhost:0"}})
with telemetry(settings):
    asyncio.run(main(settings))
"""

_HEAVY = (
    "anthropic",
    "deepagents",
    "langchain_core",
    "langgraph",
    "openai",
    "opentelemetry.exporter",
    "opentelemetry.sdk",
    "redis",
    "requests",
    "daytona",
)


def test_a_server_that_serves_has_imported_nothing_heavy() -> None:
    told = subprocess.run([sys.executable, "-c", _SERVE_AND_TELL], capture_output=True, check=True, timeout=60)
    modules = set(json.loads(told.stdout))
    assert "grpc.aio" in modules
    assert [name for name in _HEAVY if name in modules] == []
