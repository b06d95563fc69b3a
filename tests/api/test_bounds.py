"""What somebody without a token can make the server hold."""

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc
import psutil
import pytest
from google.protobuf.wrappers_pb2 import StringValue
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests import http2
from tests.probe import SERVICE, Context, failure_of, serving
from tests.running import StartProcess, turn

from runner_service.api.health import MAX_WATCHES
from runner_service.server import CHANNEL_OPTIONS, BindError
from runner_service.server.transport import CONCURRENT_STREAMS, channel_options, health_channel_options


async def test_without_a_token_a_call_is_refused_before_its_request_has_come() -> None:
    async with serving(AUTH_TOKEN="s3cret-t0ken") as probe, http2.connected(probe.server.addresses[0]) as connection:
        connection.send(http2.call_begun(f"/{SERVICE}/Call"))
        answer = await connection.next(http2.HEADERS)
        assert answer is not None
        assert b"grpc-status\x0216" in answer.body


async def test_a_request_is_not_parsed_for_who_has_no_token_and_calls_with_one_go_on() -> None:
    async with serving(AUTH_TOKEN="s3cret-t0ken") as probe:
        token = (("authorization", "Bearer s3cret-t0ken"),)
        for _ in range(2):
            # Longer than any message may be: who reads it answers RESOURCE_EXHAUSTED.
            assert await probe.call("x" * (5 << 20)).code() is grpc.StatusCode.UNAUTHENTICATED
            assert await probe.call("x", metadata=token) == StringValue(value="x")
            assert await probe.call("x" * (5 << 20), metadata=token).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


async def test_only_so_many_watch_health_and_when_one_leaves_another_may() -> None:
    async with serving() as probe:
        request = health_pb2.HealthCheckRequest()
        watches = [probe.health.Watch(request) for _ in range(MAX_WATCHES)]
        for watch in watches:
            await watch.read()
        refused = await failure_of(probe.health.Watch(request, timeout=20))
        assert refused.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await probe.health.Check(request)).status == health_pb2.HealthCheckResponse.SERVING

        watches.pop().cancel()
        async with asyncio.timeout(60):
            while not await _is_taken(again := probe.health.Watch(request)):
                await asyncio.sleep(0.01)
        for watch in (again, *watches):
            watch.cancel()


async def _is_taken(watch: Any) -> bool:
    try:
        await watch.read()
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_a_watch_of_health_does_not_hold_a_long_request() -> None:
    async with serving() as probe:
        refused = await failure_of(probe.health.Watch(health_pb2.HealthCheckRequest(service="x" * 100_000), timeout=20))
        assert refused.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_a_connection_has_a_thousand_watchers_and_no_end_of_them() -> None:
    assert 1000 < CONCURRENT_STREAMS < 10_000
    async with serving() as probe, http2.connected(probe.server.addresses[0]) as connection:
        settings = await connection.next(http2.SETTINGS)
        assert settings is not None
        wanted = http2.MAX_CONCURRENT_STREAMS.to_bytes(2, "big") + CONCURRENT_STREAMS.to_bytes(4, "big")
        assert wanted in [settings.body[at : at + 6] for at in range(0, len(settings.body), 6)]


async def test_streams_beyond_what_a_connection_may_have_wait_for_others_to_end() -> None:
    """With the bound scaled down, to see that the name is one that works."""
    open_streams = 0

    async def stream(request: StringValue, context: Context) -> None:
        nonlocal open_streams
        open_streams += 1
        await context.write(request)
        await asyncio.Event().wait()

    async with (
        _scaled(stream, ("grpc.max_concurrent_streams", 2)) as address,
        grpc.aio.insecure_channel(address) as channel,
    ):
        method: grpc.aio.UnaryStreamMultiCallable[bytes, bytes] = channel.unary_stream(f"/{SERVICE}/Watch")
        calls = {asyncio.create_task(call.read()): call for call in [method(b"") for _ in range(3)]}
        async with asyncio.timeout(60):
            while sum(reading.done() for reading in calls) < 2:
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.1)
            assert open_streams == 2
            next(call for reading, call in calls.items() if reading.done()).cancel()
            await asyncio.wait(calls)


async def test_connections_beyond_the_bound_are_closed_and_leave_half_of_the_descriptors() -> None:
    name = "grpc.max_allowed_incoming_connections"
    assert 0 < dict(channel_options(listeners=2))[name] * 2 <= resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2
    async with _scaled(None, (name, 2)) as address, AsyncExitStack() as connections:
        for _ in range(2):
            connection = await connections.enter_async_context(http2.connected(address))
            assert await connection.next(http2.SETTINGS)
        third = await connections.enter_async_context(http2.connected(address))
        assert await third.next(http2.SETTINGS) is None


@pytest.mark.parametrize(
    ("option", "sends_settings"), [("grpc.server_handshake_timeout_ms", False), ("grpc.max_connection_idle_ms", True)]
)
async def test_a_connection_that_makes_no_call_is_closed_after_a_while(option: str, sends_settings: bool) -> None:
    """With the times scaled down; each is kept without its option."""
    assert 0 < dict(CHANNEL_OPTIONS)[option] <= 300_000

    async def is_closed(*options: tuple[str, int], within_seconds: float) -> bool:
        async with _scaled(None, *options) as address:
            host, _, port = address.rpartition(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            if sends_settings:
                writer.write(http2.PREFACE + http2.frame(http2.SETTINGS))
            try:
                async with asyncio.timeout(within_seconds):
                    while await reader.read(1024):
                        pass
                    return True
            except TimeoutError:
                return False
            finally:
                writer.close()

    assert await is_closed((option, 300), within_seconds=20)
    assert not await is_closed(within_seconds=1.5)


async def test_probes_have_an_address_of_their_own_that_callers_cannot_fill() -> None:
    async with serving(HEALTH_ADDRESS="127.0.0.1:0", AUTH_TOKEN="0123456789abcdef") as probe:
        assert (
            sum(
                dict(options(listeners=1))["grpc.max_allowed_incoming_connections"]
                for options in (channel_options, health_channel_options)
            )
            < resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        )
        async with grpc.aio.insecure_channel(probe.server.health_address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            answer = await health.Check(health_pb2.HealthCheckRequest())
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
            method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/Call")
            call = method(b"")
            assert await call.code() is grpc.StatusCode.UNIMPLEMENTED
            watch = health.Watch(health_pb2.HealthCheckRequest())
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.SERVING
            await probe.server.stop()
            assert (await watch.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.mark.long
async def test_idle_connections_for_all_descriptors_lock_out_nobody_who_is_connected_and_no_probe(
    start_process: StartProcess, unused_tcp_port: int
) -> None:
    """The attack in full, on a service that may have 512 descriptors: 700 connections that say nothing."""
    health_address = f"127.0.0.1:{unused_tcp_port}"
    service = await start_process(
        [turn("Done.")], before=["prlimit", "--nofile=512:512"], HEALTH_ADDRESS=health_address
    )
    await service.client.execute()
    host, _, port = service.address.rpartition(":")
    process = psutil.Process(service.process.pid)
    writers: list[asyncio.StreamWriter] = []
    try:
        writers.extend([(await asyncio.open_connection(host, int(port)))[1] for _ in range(700)])
        assert process.num_fds() < 512
        assert (await service.client.execute())[-1].HasField("finished")
        for _ in range(5):
            async with grpc.aio.insecure_channel(
                health_address, options=[("grpc.use_local_subchannel_pool", 1)]
            ) as own:
                health: Any = health_pb2_grpc.HealthStub(own)
                answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=20)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING
    finally:
        for writer in writers:
            writer.close()
    async with grpc.aio.insecure_channel(service.address, options=[("grpc.use_local_subchannel_pool", 1)]) as caller:
        new: Any = health_pb2_grpc.HealthStub(caller)
        await new.Check(health_pb2.HealthCheckRequest(), wait_for_ready=True, timeout=60)


async def test_an_address_for_probes_that_is_taken_is_named() -> None:
    async with serving() as probe:
        with pytest.raises(BindError, match=r"HEALTH_ADDRESS: .* is taken"):
            async with serving(HEALTH_ADDRESS=probe.server.addresses[0]):
                pass


async def test_a_peer_that_no_longer_answers_is_cut_off_by_these_options_and_no_fewer() -> None:
    """With the times scaled down. It answers thrice first, as one who is quiet for long before it vanishes."""
    scaled = {
        "grpc.keepalive_time_ms": 100,
        "grpc.http2.ping_timeout_ms": 100,
        "grpc.keepalive_permit_without_calls": 1,
    }
    assert scaled.keys() <= dict(CHANNEL_OPTIONS).keys()
    assert dict(CHANNEL_OPTIONS)["grpc.http2.ping_timeout_ms"] <= 60_000
    assert await _is_cut_off_when_silent(scaled, within_seconds=20)
    fewer = [{name: scaled[name] for name in scaled if name != missing} for missing in scaled]
    kept = await asyncio.gather(*(_is_cut_off_when_silent(each, within_seconds=1.5) for each in fewer))
    assert kept == [False, False, False]


async def _is_cut_off_when_silent(options: dict[str, int], *, within_seconds: float) -> bool:
    async with _scaled(None, *options.items()) as address:
        try:
            async with asyncio.timeout(within_seconds):
                while True:
                    async with http2.connected(address) as connection:
                        if await _answers_thrice(connection):
                            return await connection.next(http2.GOAWAY) is not None
        except TimeoutError:
            return False


async def _answers_thrice(connection: http2.Connection) -> bool:
    """Answers pings. False when the server hangs up before the third: on a busy machine an answer may come too late."""
    for _ in range(3):
        ping = await connection.next(http2.PING)
        if ping is None:
            return False
        connection.send(http2.frame(http2.PING, ping.body, flags=http2.ACK))
    return True


async def test_metadata_beyond_the_bound_is_refused() -> None:
    async with serving() as probe:
        # Between the two bounds of the server some are refused, at random.
        assert await probe.call(metadata=(("x", "y" * 15_000),)).code() is grpc.StatusCode.OK
        assert await probe.call(metadata=(("x", "y" * 33_000),)).code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@asynccontextmanager
async def _scaled(stream: Any, *options: tuple[str, int]) -> AsyncIterator[str]:
    """A server with these options only."""
    server = grpc.aio.server(options=options)
    handlers: dict[str, Any] = {"Watch": grpc.unary_stream_rpc_method_handler(stream)} if stream else {}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
