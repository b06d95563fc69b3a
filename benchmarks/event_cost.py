"""What an event costs the service in log and stream: published, committed, paged and written."""

import asyncio
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import grpc

from benchmarks.callers import Caller, calling
from benchmarks.processes import Running, running
from runner_service.v1 import execution_event_pb2 as event_pb2


class Cost(NamedTuple):
    """CPU microseconds per event, events per second, events per message."""

    cpu: float
    rate: float
    batch: float


def measure(kind: str, *, streams: int, events: int, gap: float = 0.0) -> Cost:
    """Runs `streams` executions that say `events` tokens in all. `kind` is `service`, `bare` or `mute`.

    When mute, the service's executions go through the loop as often, but publish nothing.
    """
    with running(["-m", "benchmarks.fountain", "--kind", kind]) as server:
        return asyncio.run(measure_server(server, streams, events // streams, gap))


async def measure_server(server: Running, streams: int, tokens: int, gap: float) -> Cost:
    async with calling(server.address, calls=streams) as caller:
        await _round(caller, server, streams, max(tokens // 10, 10), gap)
        return await _round(caller, server, streams, tokens, gap)


async def _round(caller: Caller, server: Running, streams: int, tokens: int, gap: float) -> Cost:
    message = f'{{"tokens": {tokens}, "gap": {gap}}}'
    calls = [caller.start(message, number=number) for number in range(streams)]
    await asyncio.gather(*(caller.until(call, _says("ready")) for call in calls))
    caller.messages = 0
    cpu, began = server.cpu(), time.monotonic()
    await _open_gate(caller)
    counts = await asyncio.gather(*(caller.until(call, _says("done")) for call in calls))
    cpu, elapsed = server.cpu() - cpu, time.monotonic() - began
    messages = caller.messages
    await _open_gate(caller)
    await asyncio.gather(*(_drain(call) for call in calls))
    total = tokens * streams
    return Cost(cpu / total * 1e6, total / elapsed, sum(counts) / messages)


def _says(text: str) -> Callable[[event_pb2.ExecutionEvent], bool]:
    def reached(event: event_pb2.ExecutionEvent) -> bool:
        return event.text_delta.text == text

    return reached


async def _open_gate(caller: Caller) -> None:
    await _drain(caller.start("open"))


async def _drain(call: Any) -> None:
    while await call.read() is not grpc.aio.EOF:
        pass
