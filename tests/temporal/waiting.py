"""Waiting for what the daemon sees, and for processes."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import psutil
from tests.stigmer.fake_daemon import FakeDaemon

GATE = "until [ -e go ]; do sleep 0.02; done"
"""A command that ends once the gate is open."""


async def until(daemon: FakeDaemon, condition: Callable[[], bool]) -> None:
    """Waits until something is true of what the daemon has."""
    async with asyncio.timeout(30):
        while not condition():
            await daemon.changed()


async def until_calls(daemon: FakeDaemon, name: str, count: int = 1) -> None:
    """Waits until tool calls have been reported."""
    await until(daemon, lambda: len(daemon.status(name).tool_calls) >= count)


def open_gate(tmp_path: Path) -> None:
    """Lets the commands that wait for it end."""
    (tmp_path / "workspace" / "go").touch()


async def process_with(argument: str) -> psutil.Process:
    """Waits for the process that has an argument."""
    async with asyncio.timeout(20):
        while True:
            for each in psutil.process_iter(["cmdline"]):
                if argument in (each.info["cmdline"] or []):
                    return each
            await asyncio.sleep(0.05)
