"""Waiting for what the daemon sees, and for processes."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import psutil
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.stigmer.fake_daemon import FakeDaemon

GATE = "until [ -e go ]; do sleep 0.02; done"
"""A command that ends once the gate is open."""


async def until(daemon: FakeDaemon, condition: Callable[[], bool]) -> None:
    """Waits until something is true of what the daemon has."""
    async with asyncio.timeout(60):
        while not condition():
            await daemon.changed()


async def until_calls(daemon: FakeDaemon, name: str, count: int = 1) -> None:
    """Waits until tool calls have been reported."""
    await until(daemon, lambda: len(daemon.status(name).tool_calls) >= count)


async def until_health(address: str, status: int) -> None:
    """Waits until the health service `temporal` has a status."""
    async with grpc.aio.insecure_channel(address) as channel, asyncio.timeout(60):
        stub: Any = health_pb2_grpc.HealthStub(channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service="temporal"))
        async for response in watch:
            if response.status == status:
                break
        watch.cancel()


def open_gate(tmp_path: Path) -> None:
    """Lets the commands that wait for it end."""
    (tmp_path / "workspace" / "go").touch()


async def process_with(argument: str) -> psutil.Process:
    """Waits for the process that has an argument."""
    async with asyncio.timeout(60):
        while True:
            for each in psutil.process_iter(["cmdline"]):
                if argument in (each.info["cmdline"] or []):
                    return each
            await asyncio.sleep(0.05)
