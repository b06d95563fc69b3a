import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from temporalio.client import Client as TemporalClient
from tests.running import Client, StartService, start_process
from tests.running import start as start_service
from tests.stigmer.conftest import daemon
from tests.stigmer.fake_daemon import KEY, FakeDaemon
from tests.temporal.daemon_workflow import daemon_worker
from tests.temporal.server import TemporalServer

__all__ = ["daemon", "start_process", "start_service"]


@pytest.fixture
async def start(start_service: StartService) -> StartService:
    """Starts services with their worker."""

    async def start(*turns: Any, **variables: str) -> Client:
        client = await start_service(*turns, **variables)
        client.service.begin_loading()  # type: ignore[union-attr]  # it runs in this process
        return client

    return start


@pytest.fixture(scope="package")
def temporal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TemporalServer]:
    """One Temporal server for all tests that do not kill it: its start takes longer than most of them."""
    server = TemporalServer(tmp_path_factory.mktemp("temporal"))
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(server.start())
        yield server
        runner.run(server.kill())


@pytest.fixture
def queue() -> str:
    """A task queue of the test's own."""
    return f"queue-{uuid.uuid4().hex[:8]}"


@pytest.fixture
async def client(temporal: TemporalServer, daemon: FakeDaemon, queue: str) -> AsyncIterator[TemporalClient]:
    """A client of Temporal, with the daemon's own worker running beside it."""
    client = await temporal.client()
    async with daemon_worker(client, daemon, queue):
        yield client


@pytest.fixture
def variables(daemon: FakeDaemon, temporal: TemporalServer, queue: str) -> dict[str, str]:
    """The variables that the daemon starts the service with."""
    return {
        "STIGMER_BACKEND_ENDPOINT": daemon.address,
        "STIGMER_API_KEY": KEY,
        "TEMPORAL_SERVICE_ADDRESS": temporal.address,
        "TASK_QUEUE": queue,
    }
