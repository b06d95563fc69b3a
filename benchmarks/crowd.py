"""Many executions at once: do all of them succeed, what do they take, and does the service stay answerable?"""

import asyncio
import json
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.callers import Caller, calling
from benchmarks.processes import Running
from benchmarks.service import lateness_between, running_service

_PROBE_EVERY = 0.05


class Crowd(NamedTuple):
    """What it took: seconds, CPU seconds, bytes over idle at the peak, seconds that the loop and a probe were late."""

    executions: int
    failed: int
    elapsed: float
    cpu: float
    memory: int
    lateness: list[float]
    probes: list[float]


def measure(executions: int, tokens: int) -> Crowd:
    """Starts so many executions at once, each of which says so many tokens."""
    with tempfile.TemporaryDirectory(prefix="bench-") as temporary:
        base = Path(temporary)
        script = base / "script.yaml"
        script.write_text(json.dumps({"turns": [{"text": "token " * tokens, "delay": 0.0}]}))
        # Empty: as many work at once, and as many wait for their turn, as by default.
        variables = {"STIGMER_LLM_SCRIPT": str(script), "MAX_CONCURRENT_EXECUTIONS": ""}
        with running_service(variables, directory=base) as service:
            began, ended, crowd = asyncio.run(_measure(service, executions))
        return crowd._replace(lateness=lateness_between(base / "lateness.json", began, ended))


async def _measure(service: Running, executions: int) -> tuple[float, float, Crowd]:
    async with calling(service.address, calls=executions) as caller:
        await asyncio.gather(*(_succeeds(caller, number) for number in range(5)))
        idle, cpu, began = service.memory(), service.cpu(), time.monotonic()
        service.reset_peak()
        probes: list[float] = []
        probing = asyncio.create_task(_probe(service.address, probes))
        done = await asyncio.gather(*(_succeeds(caller, number) for number in range(executions)))
        ended = time.monotonic()
        probing.cancel()
        memory = service.peak_memory() - idle
        spent = service.cpu() - cpu
        return began, ended, Crowd(executions, done.count(False), ended - began, spent, memory, [], probes)


async def _succeeds(caller: Caller, number: int) -> bool:
    try:
        await caller.finish(caller.start("go", number=number))
    except (grpc.aio.AioRpcError, RuntimeError) as error:
        print(f"failed: {error!r:.200}")
        return False
    return True


async def _probe(address: str, took: list[float]) -> None:
    """Asks for the service's health again and again, as an orchestrator does."""
    async with grpc.aio.insecure_channel(address) as channel:
        stub: Any = health_pb2_grpc.HealthStub(channel)
        while True:
            began = time.monotonic()
            await stub.Check(health_pb2.HealthCheckRequest())
            took.append(time.monotonic() - began)
            await asyncio.sleep(_PROBE_EVERY)
