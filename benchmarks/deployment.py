"""Replicas under measurement, which share a Redis of their own; no sandbox is opened."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from benchmarks.processes import Running, cpu_seconds, running, stop

LEASE = "BENCH_LEASE_SECONDS"
"""The variable with the length of leases, if it is not what replicas have."""

_START_TIMEOUT_SECONDS = 10.0
_SEARCH_PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin"])


@dataclass(frozen=True)
class RunningRedis:
    """A Redis server that nobody else uses."""

    pid: int
    port: int

    def cpu(self) -> float:
        """CPU seconds of all its threads so far."""
        return cpu_seconds(self.pid)

    def used_memory(self) -> int:
        """Bytes that it has allocated for data, as `INFO memory` tells."""
        with self.client() as client:
            return int(client.info("memory")["used_memory"])

    def client(self) -> Any:
        """A client that blocks."""
        return redis.Redis(port=self.port)


@contextmanager
def running_redis() -> Iterator[RunningRedis]:
    """Runs Debian's `redis-server`, or another of that name, with `appendfsync everysec`."""
    program = shutil.which("redis-server", path=_SEARCH_PATH)
    if program is None:
        raise RuntimeError("redis-server is not installed: apt-get install redis-server")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = int(taken.getsockname()[1])
    with tempfile.TemporaryDirectory(prefix="bench-redis-") as directory:
        options = ["--port", str(port), "--bind", "127.0.0.1", "--dir", directory, "--save", ""]
        options += ["--appendonly", "yes", "--appendfsync", "everysec"]
        process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            server = RunningRedis(process.pid, port)
            _wait_until_answers(server)
            yield server
        finally:
            stop(process)


def _wait_until_answers(server: RunningRedis) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_SECONDS
    while True:
        with suppress(redis.RedisError), server.client() as client:
            client.ping()
            return
        if time.monotonic() > deadline:
            raise RuntimeError("redis-server does not answer")
        time.sleep(0.02)


def replica_variables(redis_port: int) -> Mapping[str, str]:
    """The settings of a replica. Its Daytona is an address where nobody listens."""
    return {
        "MODE": "cloud",
        "REDIS_HOST": "127.0.0.1",
        "REDIS_PORT": str(redis_port),
        "DAYTONA_API_KEY": "dtn_none",
        "DAYTONA_API_URL": "http://127.0.0.1:9",
        "STIGMER_API_KEY": "stk-none",
        "DRAIN_TIMEOUT": "0",
    }


@contextmanager
def running_replicas(server: RunningRedis, count: int, *, lease_seconds: float = 0) -> Iterator[list[Running]]:
    """Runs `count` replicas whose agent is the fountain; with leases of another length, if that is given."""
    program = ["-m", "benchmarks.fountain", "--kind", "service", "--redis", str(server.port)]
    with tempfile.TemporaryDirectory(prefix="bench-workspace-") as workspace, ExitStack() as parts:
        environment = {"BENCH_WORKSPACE": workspace, **({LEASE: str(lease_seconds)} if lease_seconds else {})}
        yield [parts.enter_context(running(program, environment=environment)) for _ in range(count)]
