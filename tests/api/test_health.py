"""Readiness moves on and never back, and tells whoever asks or watches."""

import asyncio
from typing import Any

import grpc
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # it has types, but no marker
from grpc_health.v1 import health_pb2
from grpc_status import rpc_status
from tests.probe import SERVICE, Context, failure_of, serving

from runner_service.errors import UnavailableError
from runner_service.executions.readiness import Readiness, Stage

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

READINESS = ("", "probe.v1.Probe")


def request(name: str = "") -> health_pb2.HealthCheckRequest:
    return health_pb2.HealthCheckRequest(service=name)


async def test_a_service_starts_unready_and_only_moves_on() -> None:
    readiness = Readiness()
    steps: list[tuple[Stage, Any]] = [
        (Stage.STARTING, lambda: None),
        (Stage.SERVING, readiness.set_serving),
        (Stage.DRAINING, readiness.set_draining),
        (Stage.STOPPED, readiness.set_stopped),
        (Stage.STOPPED, readiness.set_serving),
    ]
    for stage, advance in steps:
        advance()
        assert readiness.stage is stage
        if stage is Stage.SERVING:
            readiness.require_serving()
        else:
            with pytest.raises(UnavailableError) as refused:
                readiness.require_serving()
            assert refused.value.retry_delay > 0


async def test_readiness_and_liveness_tell_the_stage_apart() -> None:
    async with serving() as probe:
        health = probe.health
        for name in (*READINESS, "liveness"):
            assert (await health.Check(request(name))).status == SERVING
        probe.readiness.set_draining()
        for name in READINESS:
            assert (await health.Check(request(name))).status == NOT_SERVING
        assert (await health.Check(request("liveness"))).status == SERVING
        assert (await failure_of(health.Check(request("other")))).code() is grpc.StatusCode.NOT_FOUND


async def test_a_watch_tells_each_change_through_all_interceptors_and_ends_with_the_service() -> None:
    async with serving() as probe:
        health = probe.health
        readiness, unknown = health.Watch(request()), health.Watch(request("other"))
        assert (await readiness.read()).status == SERVING
        assert (await unknown.read()).status == SERVICE_UNKNOWN
        probe.readiness.set_draining()
        assert (await readiness.read()).status == NOT_SERVING
        await probe.server.stop()
        for watch in (readiness, unknown):
            assert await watch.read() is grpc.aio.EOF
            assert await watch.code() is grpc.StatusCode.OK


async def test_a_stop_with_a_watch_and_a_stream_open_ends_both_and_waits_for_the_handler() -> None:
    cleaned_up = asyncio.Event()

    async def stream(request: StringValue, context: Context) -> None:
        await context.write(request)
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0.1)
            cleaned_up.set()

    async with serving(stream=stream) as probe:
        watch = probe.health.Watch(request())
        call = probe.watch("x")
        await watch.read()
        await call.read()
        await probe.server.stop()
        assert cleaned_up.is_set()
        assert (await watch.read()).status == NOT_SERVING
        assert await watch.read() is grpc.aio.EOF
        assert await watch.code() is grpc.StatusCode.OK
        assert await call.code() in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


async def test_a_watcher_that_reads_nothing_keeps_nobody_from_changing_the_stage() -> None:
    async with serving() as probe:
        health = probe.health
        sleepers = [health.Watch(request()) for _ in range(20)]
        watch = health.Watch(request())
        assert (await watch.read()).status == SERVING
        probe.readiness.set_draining()
        assert (await watch.read()).status == NOT_SERVING
        for sleeper in sleepers:
            sleeper.cancel()


async def test_once_stopped_only_health_answers() -> None:
    async with serving() as probe:
        probe.readiness.set_stopped()
        refused = await failure_of(probe.call("x"))
        assert refused.code() is grpc.StatusCode.UNAVAILABLE
        retry = error_details_pb2.RetryInfo()
        status: Any = rpc_status.from_call(refused)  # type: ignore[arg-type]  # the stubs know only its synchronous twin
        assert any(detail.Unpack(retry) for detail in status.details)
        assert retry.retry_delay.ToMilliseconds() > 0
        answer = await probe.health.Check(request())
        assert answer.status == NOT_SERVING


async def test_while_draining_calls_pass() -> None:
    async with serving() as probe:
        probe.readiness.set_draining()
        assert await probe.call("x") == StringValue(value="x")


async def test_all_services_are_listed_with_their_status() -> None:
    async with serving() as probe:
        probe.readiness.set_neighbour("neighbour", is_there=False)
        request: Any = health_pb2.HealthListRequest()  # type: ignore[attr-defined]  # stubs are older
        listed = (await probe.health.List(request)).statuses
        assert {name: status.status for name, status in listed.items()} == {
            "": SERVING,
            SERVICE: SERVING,
            "liveness": SERVING,
            "neighbour": NOT_SERVING,
        }
