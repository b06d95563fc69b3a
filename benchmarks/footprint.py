"""How soon the service can be called, and what it holds: idle, per execution, per watcher."""

import asyncio
import json
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from benchmarks.callers import calling
from benchmarks.processes import Running, running
from benchmarks.service import running_service, service_environment
from runner_service.v1 import agent_runner_pb2 as runner_pb2

_WATCH = "/runner_service.v1.AgentRunnerService/WatchExecution"
_SETTLE = 0.5


class Start(NamedTuple):
    """Seconds from exec to an answer, resident bytes at that moment, and when all is loaded."""

    seconds: float
    memory: int
    loaded: int


def service_start() -> Start:
    """Starts the service by its command line and waits until a health check says SERVING."""
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as base,
        running(["-m", "runner_service", "serve"], environment=service_environment(Path(base), {})) as service,
    ):
        extra = _until_serving(service)
        memory = service.memory()
        return Start(service.seconds_to_ready + extra, memory, _settled(service))


def _until_serving(service: Running) -> float:
    began = time.monotonic()
    with grpc.insecure_channel(service.address) as channel:
        response = _check(channel)(health_pb2.HealthCheckRequest(), wait_for_ready=True)
    if response.status != health_pb2.HealthCheckResponse.SERVING:
        raise RuntimeError("the service is ready but does not serve")
    return time.monotonic() - began


def _check(channel: grpc.Channel) -> Any:
    stub: Any = health_pb2_grpc.HealthStub(channel)
    return stub.Check


def _settled(service: Running) -> int:
    """Resident bytes once they do not grow any more: what is loaded in the background is there."""
    memory, last = service.memory(), 0
    while memory > last:
        last = memory
        time.sleep(_SETTLE)
        memory = service.memory()
    return memory


class Held(NamedTuple):
    """Bytes per execution that waits for its model, and per stream that watches one."""

    execution: float
    watcher: float


def held(executions: int, watchers: int) -> Held:
    """Measures both, one after the other, in one service."""
    with ExitStack() as stack:
        base = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        script = base / "script.yaml"
        script.write_text(json.dumps({"turns": [{"text": "a few words", "silence": 3600}]}))
        service = stack.enter_context(running_service({"STIGMER_LLM_SCRIPT": str(script)}, directory=base))
        return asyncio.run(_held(service, executions, watchers))


async def _held(service: Running, executions: int, watchers: int) -> Held:
    async with calling(service.address, calls=executions) as caller, _watching(service.address) as watch:
        calls = [caller.start("go", execution_id=f"e{number}", number=number) for number in range(executions // 5)]
        await asyncio.gather(*(_said(caller, call) for call in calls))
        before = service.memory()
        more = [caller.start("go", execution_id=f"m{number}", number=number) for number in range(executions)]
        await asyncio.gather(*(_said(caller, call) for call in more))
        per_execution = (service.memory() - before) / executions
        streams = [watch(runner_pb2.WatchExecutionRequest(execution_id="e0")) for _ in range(watchers // 5)]
        await asyncio.gather(*(stream.read() for stream in streams))
        before = service.memory()
        streams += [watch(runner_pb2.WatchExecutionRequest(execution_id="e0")) for _ in range(watchers)]
        await asyncio.gather(*(stream.read() for stream in streams[-watchers:]))
        per_watcher = (service.memory() - before) / watchers
        for call in [*calls, *more, *streams]:
            call.cancel()
        return Held(per_execution, per_watcher)


async def _said(caller: Any, call: Any) -> None:
    await caller.until(call, lambda event: event.text_delta.text.endswith("words"))


class _watching:  # noqa: N801  # reads as a verb
    """A channel for watchers."""

    def __init__(self, address: str) -> None:
        self._channel = grpc.aio.insecure_channel(address)

    async def __aenter__(self) -> Any:
        return self._channel.unary_stream(_WATCH, request_serializer=lambda message: message.SerializeToString())

    async def __aexit__(self, *_: object) -> None:
        await self._channel.close()
