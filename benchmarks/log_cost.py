"""What an event costs in the log alone: executions publish tokens, which the writer commits; nobody watches.

As a program it is the process that is measured: it prints how many CPU seconds the tokens took.
"""

import argparse
import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

import uvloop
from redis import Redis

from benchmarks.deployment import RunningRedis
from benchmarks.fountain import TOKEN, Pace
from benchmarks.processes import ROOT, plain_environment
from runner_service.events.stream import EventStream
from runner_service.events.writer import log_writer
from runner_service.storage.backend import Storage
from runner_service.storage.event_log import NewExecution
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2


class LogCost(NamedTuple):
    """CPU microseconds per event of the process, and of Redis; bytes per event in Redis."""

    process: float
    redis: float
    memory: float

    @property
    def both(self) -> float:
        """CPU microseconds of both."""
        return self.process + self.redis


def measure(redis: RunningRedis | None, *, streams: int, tokens: int, gap: float) -> LogCost:
    """Publishes `tokens` in each of `streams` executions, one every `gap` seconds; in SQLite without a `redis`."""
    program = [sys.executable, "-m", "benchmarks.log_cost", "--streams", str(streams), "--tokens", str(tokens)]
    program += ["--gap", str(gap), *(["--redis", str(redis.port)] if redis else [])]
    ran = subprocess.run(program, cwd=ROOT, env=plain_environment(), stdout=subprocess.PIPE, text=True, check=True)
    process, server, memory = (each / (streams * tokens) for each in json.loads(ran.stdout))
    return LogCost(process * 1e6, server * 1e6, memory)


def _used(redis_port: int | None) -> tuple[float, float, int]:
    """CPU seconds of this process and of Redis, and its memory, so far."""
    if redis_port is None:
        return (time.process_time(), 0.0, 0)
    with Redis(port=redis_port) as client:
        info: Any = client.info()
    return (time.process_time(), info["used_cpu_user"] + info["used_cpu_sys"], info["used_memory"])


@asynccontextmanager
async def _storage(redis_port: int | None, base: Path) -> AsyncIterator[Storage]:
    if redis_port is None:
        from runner_service.storage.sqlite.backend import sqlite_storage

        async with sqlite_storage(base) as local:
            yield local
        return
    from runner_service.storage.redis.address import RedisAddress
    from runner_service.storage.redis.backend import redis_storage

    async with redis_storage(RedisAddress("127.0.0.1", redis_port)) as shared:
        await shared.replicas.reach()
        yield shared


async def _publish(stream: EventStream, tokens: int, gap: float) -> None:
    pace, framer = Pace(gap), stream.text_framer(event_pb2.TextDelta, "m")
    for _ in range(tokens):
        stream.publish_text(framer, TOKEN)
        await stream.wait_for_capacity()
        await pace.next()
    await stream.flush()


async def _run(redis_port: int | None, base: Path, streams: int, tokens: int, gap: float) -> list[float]:
    async with _storage(redis_port, base) as storage, log_writer(storage.log) as writer:
        opened = []
        for number in range(streams):
            name = f"{time.time_ns()}-{number}"
            claim = await storage.ownership.claim(name)
            assert claim is not None
            stream = EventStream(name, writer, storage.log)
            stream.owner_token = claim.token
            stream.append(NewExecution(runner_pb2.Execution(execution_id=name), b""), 0)
            opened.append(stream)
        await asyncio.gather(*(each.flush() for each in opened))
        before = _used(redis_port)
        await asyncio.gather(*(_publish(each, tokens, gap) for each in opened))
        return [after - earlier for earlier, after in zip(before, _used(redis_port), strict=True)]


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--redis", type=int, metavar="PORT")
    parser.add_argument("--streams", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--gap", type=float, required=True)
    given = parser.parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as base,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        print(json.dumps(runner.run(_run(given.redis, Path(base), given.streams, given.tokens, given.gap))))


if __name__ == "__main__":
    _main()
