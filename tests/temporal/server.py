"""A real Temporal dev server, which can be killed and started again with the same state."""

import asyncio
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from temporalio.client import Client
from tests.ports import free_port

PROGRAM = shutil.which("temporal", path=str(Path(sys.executable).parent)) or shutil.which("temporal") or ""

needs_temporal = pytest.mark.skipif(
    not PROGRAM, reason="needs the Temporal dev server: requirements/temporal-server.txt"
)


class TemporalServer:
    """The dev server at a port of its own. Construct it with `temporal_server`."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Starts it, and waits until it answers."""
        arguments = ["server", "start-dev", "--headless", "--ip", "127.0.0.1", "--port", str(self.port)]
        state = ["--db-filename", str(self._directory / "temporal.db"), "--log-level", "never"]
        async with asyncio.timeout(60):
            while not await self._answers():
                if self._process is None or self._process.poll() is not None:
                    # It chooses further ports itself before it binds them, and ends if somebody else was quicker.
                    self._process = await asyncio.to_thread(self._open, [*arguments, *state])
                await asyncio.sleep(0.05)

    @staticmethod
    def _open(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        """Not by the event loop, for another one waits for the end."""
        return subprocess.Popen([PROGRAM, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    async def kill(self) -> None:
        """Kills it at once, as the kernel would."""
        if self._process:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    async def client(self) -> Client:
        """A client of it."""
        return await Client.connect(self.address)

    async def _answers(self) -> bool:
        try:
            client = await self.client()
            await client.count_workflows()
        except Exception:  # noqa: BLE001  # whatever it is, it does not answer yet
            return False
        return True


@asynccontextmanager
async def temporal_server(directory: Path) -> AsyncIterator[TemporalServer]:
    """Runs a server until the context ends."""
    server = TemporalServer(directory)
    await server.start()
    try:
        yield server
    finally:
        await server.kill()
