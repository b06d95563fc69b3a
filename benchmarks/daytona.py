"""Measures cloud mode against the emulator: `python -m benchmarks.daytona [--rounds 5] [--leaks 500]`.

Everything is on this machine, emulator included, so the times are what we add to Daytona's own and to the network's.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.emulator import API_KEY, Cloud, running_emulator

from benchmarks.report import machine, ratio, spread
from runner_service.executors.daytona.config import SandboxConfig
from runner_service.executors.daytona.executor import Account, DaytonaExecutor, daytona_executor
from runner_service.executors.daytona.session import CommandLimits
from runner_service.executors.protocol import Command, Sandbox, SandboxError, SandboxSpec, Stream
from runner_service.settings import SecretStr

TEN_MEGABYTES = "head -c 10000000 /dev/zero | tr '\\0' x | fold -w 79"
LINES = "seq 100000"
LATENCY_SECONDS = 0.03
START_SECONDS = 1.5


class Clocked:
    """A sink that notes when the first byte came."""

    def __init__(self) -> None:
        self.bytes = 0
        self.first = 0.0

    async def write(self, stream: Stream, data: bytes) -> None:
        del stream
        self.first = self.first or time.perf_counter()
        self.bytes += len(data)


@asynccontextmanager
async def there(config: SandboxConfig) -> AsyncIterator[tuple[Cloud, DaytonaExecutor]]:
    with tempfile.TemporaryDirectory() as directory:
        async with running_emulator(Path(directory)) as cloud:
            account = Account(SecretStr(API_KEY), cloud.api_url)
            async with daytona_executor(account, config, limits=CommandLimits(terminate_grace=0.25)) as executor:
                yield cloud, executor


async def ours(sandbox: Sandbox, text: str) -> tuple[float, float]:
    """Returns how long a command took, and how long its first byte."""
    sink = Clocked()
    began = time.perf_counter()
    await sandbox.run(Command(text, 120, sink))
    return (time.perf_counter() - began) * 1000, (sink.first - began) * 1000


async def bare(handle: Any, text: str) -> float:
    """The emulator's own time: one exec."""
    began = time.perf_counter()
    await handle.process.exec(text, cwd="/", timeout=60)
    return (time.perf_counter() - began) * 1000


async def sdk_log(handle: Any, text: str) -> tuple[float, float]:
    """The SDK's own live output: a session's log by WebSocket."""
    from daytona import SessionExecuteRequest

    first = 0.0

    def take(_: str) -> None:
        nonlocal first
        first = first or time.perf_counter()

    await handle.process.create_session("s")
    began = time.perf_counter()
    started = await handle.process.execute_session_command("s", SessionExecuteRequest(command=text, run_async=True))
    await handle.process.get_session_command_logs_async("s", started.cmd_id, take, take)
    took = (time.perf_counter() - began) * 1000
    await handle.process.delete_session("s")
    return took, (first - began) * 1000


async def compare(rounds: int) -> None:
    from daytona import AsyncDaytona, DaytonaConfig

    found: dict[str, list[float]] = {}

    async def note(name: str, measured: Awaitable[float | tuple[float, float]], part: int = 0) -> None:
        value = await measured
        found.setdefault(name, []).append(value[part] if isinstance(value, tuple) else value)

    async with (
        there(SandboxConfig()) as (cloud, executor),
        AsyncDaytona(DaytonaConfig(api_key=API_KEY, api_url=cloud.api_url, target="local")) as client,
        executor.open(SandboxSpec("benchmark")) as sandbox,
    ):
        handle = await client.get(next(iter(cloud.sandboxes)))
        await ours(sandbox, "true")
        for _ in range(rounds):
            for _ in range(5):
                await note("true", ours(sandbox, "true"))
                await note("true, one bare exec", bare(handle, "true"))
            await note("first output", ours(sandbox, "echo x; sleep 0.2"), 1)
            await note("first output, SDK's log", sdk_log(handle, "echo x; sleep 0.2"), 1)
            await note("10 MB, one bare exec", bare(handle, TEN_MEGABYTES))
            for name, text in (("10 MB", TEN_MEGABYTES), ("100,000 lines", LINES)):
                await note(name, ours(sandbox, text))
                await note(f"{name}, SDK's log", sdk_log(handle, text))
    show(found)


def show(found: dict[str, list[float]]) -> None:
    logs = {name: f"{name}, SDK's log" for name in ("first output", "10 MB", "100,000 lines")}
    pairs = [("true", "true, one bare exec"), ("10 MB", "10 MB, one bare exec"), *logs.items()]
    print("| | ours, ms | theirs, ms | × |\n| --- | --- | --- | --- |")
    for mine, theirs in pairs:
        cells = (theirs, spread(found[mine]), spread(found[theirs]), ratio(found[mine], found[theirs]))
        print(f"| {' | '.join(cells)} |")
    print(f"\nloop: {statistics.median(found['true']):.1f} ms a tool call")


async def trips(rounds: int) -> None:
    """Counts and times the requests of common things, with 30 ms for each and 1.5 s for a new sandbox."""
    print("\n| what, 30 ms a request | requests | ms |\n| --- | --- | --- |")
    async with there(SandboxConfig()) as (cloud, executor):
        async with executor.open(SandboxSpec("trips", session_id="s")) as sandbox:
            await ours(sandbox, "true")
            cloud.faults.latency = LATENCY_SECONDS
            await _count("`true`", cloud, rounds, lambda _: ours(sandbox, "true"))
            await _count("write a small file", cloud, rounds, lambda _: sandbox.write_text("/a", "x" * 1000))
            await _count("read it", cloud, rounds, lambda _: sandbox.read_text("/a"))
            await _count("upload 100 KB", cloud, rounds, lambda _: sandbox.upload("/b", _chunk(b"x" * 100_000)))
        cloud.faults.start_seconds = START_SECONDS
        await _count("first command of a session, new sandbox", cloud, rounds, lambda n: _first(executor, f"new-{n}"))
    async with there(SandboxConfig(warm=rounds)) as (cloud, executor):
        async with executor.open(SandboxSpec("load the SDK")):
            while executor.warm_sandboxes() < rounds:  # noqa: ASYNC110  # nothing else tells that the pool is full
                await asyncio.sleep(0.05)
        cloud.faults.latency, cloud.faults.start_seconds = LATENCY_SECONDS, 3600.0
        await _count("the same, warm pool", cloud, rounds, lambda n: _first(executor, f"warm-{n}"))


async def _count(name: str, cloud: Cloud, rounds: int, work: Callable[[int], Awaitable[object]]) -> None:
    counts, times = [], []
    for number in range(rounds):
        await asyncio.sleep(0.5)  # the long poll is under way again
        before, began = len(cloud.requests), time.perf_counter()
        await work(number)
        times.append((time.perf_counter() - began) * 1000)
        counts.append(len([each for each in cloud.requests[before:] if "socket.io" not in each]))
    print(f"| {name} | {statistics.median(counts):g} | {spread(times)} |")


async def _first(executor: DaytonaExecutor, session_id: str) -> None:
    """Opens a session's sandbox, and leaves it when its first command has ended."""
    spec = SandboxSpec(session_id, session_id=session_id, is_interrupted=lambda: True)  # its close is not counted
    async with executor.open(spec) as sandbox:
        await ours(sandbox, "true")


async def _chunk(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def leaks(runs: int, *, at_once: int = 8) -> None:
    """Runs executions with random faults and random ends; says what is left of their sandboxes."""
    chance = random.Random(7)
    ends: Counter[str] = Counter()
    config = SandboxConfig(poll_interval=2.0, response_margin=3, start_timeout=30.0)
    async with there(config) as (cloud, executor):
        cloud.faults.error_rate = 0.05
        cloud.faults.start_seconds = 0.05
        gate = asyncio.Semaphore(at_once)

        async def one(number: int) -> None:
            async with gate:
                task = asyncio.create_task(_one_run(executor, number))
                if chance.random() < 0.3:
                    await asyncio.sleep(chance.uniform(0, 2))
                    task.cancel()
                await asyncio.wait([task])
            ends[
                "cancelled" if task.cancelled() else f"failed: {failure}" if (failure := task.exception()) else "done"
            ] += 1

        await asyncio.gather(*(one(number) for number in range(runs)))
        for _ in range(200):
            if not cloud.sandboxes:
                break
            await asyncio.sleep(0.05)
        left = len(cloud.sandboxes)
        print(f"\n{runs} runs with random faults: {dict(ends)}; sandboxes made {cloud.created}, left {left}")


async def _one_run(executor: DaytonaExecutor, number: int) -> None:
    async with executor.open(SandboxSpec(f"run-{number}")) as sandbox:
        sink = Clocked()
        result = await sandbox.run(Command("seq 1000; sleep 0.1", 60, sink))
        if (result.exit_code, sink.bytes) != (0, 3893):
            raise SandboxError(f"a wrong result: {result}, {sink.bytes} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.daytona", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--leaks", type=int, default=0, metavar="RUNS", help="runs with random faults")
    arguments = parser.parse_args()
    asyncio.run(compare(arguments.rounds))
    asyncio.run(trips(arguments.rounds))
    if arguments.leaks:
        asyncio.run(leaks(arguments.leaks))
    print(f"\n{machine()}")


if __name__ == "__main__":
    main()
