"""A Daytona for this machine: the REST and WebSocket interface as the real SDK calls it, with real processes behind it.

Written from what is publicly known of the interface. What the real one does badly is here too, as `Faults`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web
from tests.emulator.cloud import API_KEY, Cloud
from tests.emulator.faults import Fault, Faults
from tests.emulator.routes import application

__all__ = ["API_KEY", "Cloud", "Fault", "Faults", "running_emulator"]


@asynccontextmanager
async def running_emulator(directory: Path, *, port: int = 0, faults: Faults | None = None) -> AsyncIterator[Cloud]:
    """Serves on 127.0.0.1 until the block ends; then no sandbox and no process of one is left."""
    cloud = Cloud(directory, faults or Faults())
    runner = web.AppRunner(application(cloud), access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", port)
    await site.start()
    assert runner.addresses
    cloud.origin = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield cloud
    finally:
        await cloud.close()
        await runner.cleanup()
