"""What the channel options and the handlers do under real load: each by its effect."""

import asyncio
import gc
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import grpc
from google.protobuf.wrappers_pb2 import StringValue
from tests.probe import SERVICE, Context, failure_of, serving

from runner_service.server import CHANNEL_OPTIONS

_BURST = """
import asyncio, collections, json, sys
import grpc

async def main(address, count):
    async with grpc.aio.insecure_channel(address) as channel:
        call = channel.unary_unary("/{service}/Call")
        codes = await asyncio.gather(*(call(b"").code() for _ in range(count)))
    print(json.dumps(collections.Counter(code.name for code in codes)))

asyncio.run(main(sys.argv[1], int(sys.argv[2])))
"""


async def burst(address: str, count: int) -> dict[str, int]:
    """Makes `count` calls at once, from a process of its own: the server has all of them before its first turn."""
    script = _BURST.replace("{service}", SERVICE)
    client = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, address, str(count), stdout=subprocess.PIPE
    )
    told, _ = await client.communicate()
    counted: dict[str, int] = json.loads(told)
    return counted


async def test_a_burst_of_2000_calls_is_answered_whole() -> None:
    async def slow(request: StringValue, context: Context) -> StringValue:
        await asyncio.sleep(0)
        return request

    async with serving(unary=slow) as probe:
        assert await burst(probe.server.addresses[0], 2000) == {"OK": 2000}


async def test_thousands_of_cancelled_streams_leave_nothing_behind() -> None:
    """Grows by some 600 KB for 2,000 streams when each leaks, as when a handler swallows its cancellation."""
    open_streams: set[int] = set()

    async def stream(request: StringValue, context: Context) -> None:
        open_streams.add(id(context))
        try:
            await context.write(request)
            await asyncio.Event().wait()
        finally:
            open_streams.discard(id(context))

    async with serving(stream=stream) as probe:

        async def come_and_go() -> None:
            call = probe.watch("x")
            await call.read()
            call.cancel()

        async def round_of(count: int) -> int:
            for _ in range(count // 50):
                await asyncio.gather(*(come_and_go() for _ in range(50)))
            async with asyncio.timeout(60):
                while open_streams:
                    await asyncio.sleep(0.01)
            gc.collect()
            return resident_bytes()

        await round_of(1000)
        before = await round_of(500)
        assert await round_of(2000) - before < 4 << 20
        async with asyncio.timeout(60):  # the last ones end a little after their handlers
            while len(asyncio.all_tasks()) >= 20:
                await asyncio.sleep(0.01)


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0" + b"\x04\0" + b"\0\0\0\0"  # and empty SETTINGS
_PING = b"\0\0\x08" + b"\x06\0" + b"\0\0\0\0" + b"12345678"
_KIND_OF_PING, _GOAWAY = 6, 7


async def is_cut_off_for_pings(options: Sequence[tuple[str, int]]) -> bool:
    """Tells whether a connection without calls is cut off that pings five times, every 0.3 s, or has five answers."""
    server = grpc.aio.server(options=options)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    frames: list[int] = []
    reading = asyncio.create_task(read_frames(reader, frames))
    try:
        writer.write(_PREFACE)
        for _ in range(5):  # the fourth may be one too many, and the fifth then has no answer
            writer.write(_PING)
            await asyncio.sleep(0.3)
        async with asyncio.timeout(60):
            while not reading.done() and frames.count(_KIND_OF_PING) < 5:
                await asyncio.sleep(0.01)
        return _GOAWAY in frames
    finally:
        writer.close()
        await asyncio.gather(reading, return_exceptions=True)
        await server.stop(None)


async def read_frames(reader: asyncio.StreamReader, frames: list[int]) -> None:
    while True:
        head = await reader.readexactly(9)
        frames.append(head[3])
        await reader.readexactly(int.from_bytes(head[:3]))


async def test_callers_may_ping_often_by_both_options_and_by_neither_alone() -> None:
    """With the interval scaled down, to see that the names are the ones that work: unknown ones are never reported."""
    interval = "grpc.http2.min_ping_interval_without_data_ms"
    between_calls = "grpc.keepalive_permit_without_calls"
    assert {(interval, 10_000), (between_calls, 1)} < set(CHANNEL_OPTIONS)
    cut_off: Sequence[bool] = await asyncio.gather(
        is_cut_off_for_pings([]),
        is_cut_off_for_pings([(interval, 1)]),
        is_cut_off_for_pings([(between_calls, 1)]),
        is_cut_off_for_pings([(interval, 1), (between_calls, 1)]),
    )
    assert list(cut_off) == [True, True, True, False]


async def test_a_slow_reader_costs_bounded_memory_and_its_cancel_ends_the_handler() -> None:
    ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    written = 0

    async def stream(request: StringValue, context: Context) -> None:
        nonlocal written
        try:
            while True:
                await context.write(StringValue(value="x" * 65_536))
                written += 65_536
        except BaseException as error:
            ended.set_result(type(error).__name__)
            raise

    async with serving(stream=stream) as probe:
        call = probe.watch()
        await call.read()
        settled = -1
        while settled != written:
            settled = written
            await asyncio.sleep(0.1)
        assert written < 64 << 20
        call.cancel()
        assert await asyncio.wait_for(ended, 20) in {"CancelledError", "ExecuteBatchError"}


async def test_the_death_of_a_client_ends_its_stream() -> None:
    begun, left = asyncio.Event(), asyncio.Event()

    async def stream(request: StringValue, context: Context) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()

    script = f"""
import grpc, sys
for _ in grpc.insecure_channel(sys.argv[1]).unary_stream("/{SERVICE}/Watch")(b""): pass
"""
    async with serving(stream=stream) as probe, asyncio.timeout(60):
        client = await asyncio.create_subprocess_exec(sys.executable, "-c", script, probe.server.addresses[0])
        await begun.wait()
        client.kill()
        await client.wait()
        await left.wait()


async def test_a_deadline_of_the_caller_ends_the_handler() -> None:
    begun, left = asyncio.Event(), asyncio.Event()

    async def unary(request: StringValue, context: Context) -> StringValue:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        return request

    async with serving(unary=unary) as probe, asyncio.timeout(60):
        while not begun.is_set():  # the deadline may pass before the server has the call
            assert (await failure_of(probe.call(timeout=0.1))).code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await left.wait()
