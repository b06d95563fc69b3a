"""Replicas on one Redis: what an event costs, how soon others see it, and how soon others take over.

`python -m benchmarks.scale --executions 1000` measures one crowd of another size.
"""

import argparse
import asyncio
import os
import signal
import statistics
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from typing import Any, NamedTuple

import grpc

from benchmarks.callers import Caller, calling
from benchmarks.deployment import RunningRedis, running_redis, running_replicas
from benchmarks.processes import Running
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

LOCAL = "log alone, SQLite: µs of CPU per event"
REPLICA = "log alone, Redis: µs of CPU per event, replica"
REDIS = "log alone, Redis: µs of CPU per event, Redis"
RATIO = "replica and Redis together, × SQLite"
MEMORY = "bytes of Redis' memory per token"
WAKE_UP = "100 executions at 2 replicas: a watcher at the other one sees an event later by, ms"
WAKE_UP_95 = "the same, 95th percentiles, ms"
TAKEOVER = "from the kill of a replica to `started{resumed}` at another, s"
CROWD_REPLICAS = "200 executions × 2 watchers at 3 replicas: µs of CPU per event, replicas without agents"
CROWD_REDIS = "the same, Redis, µs"
CROWD_WAKE_UP = "the same, a watcher at another replica sees an event later by, ms"
"""The rows of the table in docs/performance.md, of which `benchmarks.capacity` computes."""

_TAKEOVER_TIMEOUT_SECONDS = 30.0
_STARTS_AT_ONCE = 24
_CROWD_LEASE_SECONDS = 30.0
"""Replicas that wait for a core longer than a lease would be taken over; here that is not measured."""

_CROWD_TIMEOUT_SECONDS = 280.0


class Crowd(NamedTuple):
    """Executions that say tokens at several replicas, each watched at its owner and at another replica."""

    events: int
    replicas_cpu: float
    """CPU microseconds of all replicas per event."""
    redis_cpu: float
    """CPU microseconds of Redis per event."""
    own_delays: Sequence[float]
    """Seconds from an event's time to its arrival, at its owner's watchers."""
    other_delays: Sequence[float]
    """The same at the watchers of another replica."""

    @property
    def wake_up(self) -> float:
        """Seconds that another replica adds, by medians."""
        return statistics.median(self.other_delays) - statistics.median(self.own_delays)

    @property
    def late_wake_up(self) -> float:
        """The same by 95th percentiles."""
        return percentile_95(self.other_delays) - percentile_95(self.own_delays)


def percentile_95(values: Sequence[float]) -> float:
    """The value that 95 % do not exceed."""
    return statistics.quantiles(values, n=20)[-1]


def crowd(executions: int, *, replicas: int = 3, tokens: int = 20, gap: float = 1.0) -> Crowd:
    """Runs so many executions over so many replicas. Raises RuntimeError if a watcher misses or repeats an event."""
    with running_redis() as redis, running_replicas(redis, replicas, lease_seconds=_CROWD_LEASE_SECONDS) as running:
        return asyncio.run(_crowd(redis, running, executions, tokens, gap))


async def _crowd(redis: RunningRedis, replicas: Sequence[Running], executions: int, tokens: int, gap: float) -> Crowd:
    async with AsyncExitStack() as parts:
        calls = 2 * -(-executions // len(replicas)) + 1
        callers = [await parts.enter_async_context(calling(each.address, calls=calls)) for each in replicas]
        watched: list[tuple[Watched, Watched]] = []
        all_ready = asyncio.Event()
        starting = asyncio.Semaphore(_STARTS_AT_ONCE)

        async def follow(number: int) -> None:
            owner, other = callers[number % len(callers)], callers[(number + 1) % len(callers)]
            name = f"crowd-{number}"
            phase = gap * number / executions
            message = f'{{"tokens": {tokens}, "gap": {gap}, "phase": {phase}}}'
            async with starting:
                pair = Watched(owner.start(message, number=number, execution_id=name)), Watched(None)
                await pair[0].until_ready()
                pair[1].call = other.watch(name, number=number)
                await pair[1].until_ready()
            watched.append(pair)
            if len(watched) == executions:
                all_ready.set()
            await asyncio.gather(*(each.until_done(tokens) for each in pair))

        async with asyncio.timeout(_CROWD_TIMEOUT_SECONDS), asyncio.TaskGroup() as tasks:
            for number in range(executions):
                tasks.create_task(follow(number))
            await all_ready.wait()
            before = sum(each.cpu() for each in replicas), redis.cpu()
            await asyncio.gather(*(_open(each) for each in callers))
        events = executions * tokens
        replicas_cpu, redis_cpu = sum(each.cpu() for each in replicas) - before[0], redis.cpu() - before[1]
        for each in replicas:  # the ends of a thousand executions would take longer than what is measured
            os.kill(each.pid, signal.SIGKILL)
        own_delays = [delay for own, _ in watched for delay in own.delays]
        other_delays = [delay for _, other in watched for delay in other.delays]
        return Crowd(events, replicas_cpu / events * 1e6, redis_cpu / events * 1e6, own_delays, other_delays)


class Watched:
    """A stream that is read up to "ready" and up to "done", and how late its events came in between."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.delays: list[float] = []
        self._sequence = 0

    async def until_ready(self) -> None:
        """Reads up to the event before the tokens."""
        await self._until("ready")
        self.delays.clear()

    async def until_done(self, tokens: int) -> None:
        """Reads up to the event after the tokens."""
        await self._until("done")
        if len(self.delays) != tokens + 1:
            raise RuntimeError(f"{len(self.delays)} events came, of {tokens + 1}")

    async def _until(self, text: str) -> None:
        while (page := await self.call.read()) is not grpc.aio.EOF:
            now = time.time()
            for event in runner_pb2.ExecuteAgentResponse.FromString(page).events:
                if event.sequence != self._sequence + 1:
                    raise RuntimeError(f"event {event.sequence} came after {self._sequence}")
                self._sequence = event.sequence
                self.delays.append(now - event.create_time.seconds - event.create_time.nanos / 1e9)
                if event.text_delta.text == text:
                    return
        raise RuntimeError(f"the stream ended early: {await self.call.code()} {await self.call.details()}")


async def _open(caller: Caller) -> None:
    call = caller.start("open")
    while await call.read() is not grpc.aio.EOF:
        pass


def takeover(executions: int) -> list[float]:
    """Kills a replica that runs so many executions; returns after how many seconds each was `started` at another."""
    with running_redis() as redis, running_replicas(redis, 2) as (owner, other):
        return asyncio.run(_takeover(owner, other, executions))


async def _takeover(owner: Running, other: Running, executions: int) -> list[float]:
    async with calling(owner.address, calls=executions) as starting, calling(other.address, calls=executions) as caller:
        fields = {"disconnect_policy": runner_pb2.DISCONNECT_POLICY_DETACH}
        watching = []
        for number in range(executions):
            name = f"taken-{number}"
            call = starting.start('{"tokens": 1, "gap": 0}', number=number, execution_id=name, **fields)
            await starting.until(call, lambda event: event.text_delta.text == "ready")
            watched = caller.watch(name, number=number)
            await caller.until(watched, lambda event: event.text_delta.text == "ready")
            watching.append(watched)
        os.kill(owner.pid, signal.SIGKILL)
        killed = time.monotonic()

        async def resumed(call: Any) -> float:
            await caller.until(call, _is_resumed)
            return time.monotonic() - killed

        async with asyncio.timeout(_TAKEOVER_TIMEOUT_SECONDS):
            took = await asyncio.gather(*(resumed(each) for each in watching))
        for each in watching:
            each.cancel()
        with suppress(grpc.aio.AioRpcError, asyncio.CancelledError):
            await _open(caller)
        return sorted(took)


def _is_resumed(event: event_pb2.ExecutionEvent) -> bool:
    return event.started.resumed


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--executions", type=int, default=1000)
    parser.add_argument("--replicas", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=20, help="of each execution (default: 20)")
    parser.add_argument("--gap", type=float, default=2.0, help="seconds between two of them (default: 2)")
    given = parser.parse_args()
    found = crowd(given.executions, replicas=given.replicas, tokens=given.tokens, gap=given.gap)
    print(f"{found.events} events: {found.replicas_cpu:.0f} µs of the replicas, {found.redis_cpu:.0f} µs of Redis each")
    for name, delays in (("at the owner", found.own_delays), ("at another replica", found.other_delays)):
        tail = percentile_95(delays)
        print(f"seen {name} after {statistics.median(delays) * 1e3:.1f} ms, 95 % within {tail * 1e3:.1f} ms")


if __name__ == "__main__":
    _main()
