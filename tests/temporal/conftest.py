import uuid
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from tests.running import Client, StartService, start_process
from tests.running import start as start_service
from tests.stigmer.conftest import daemon
from tests.temporal.server import TemporalServer, temporal_server

__all__ = ["daemon", "start_process", "start_service"]


@pytest.fixture
async def start(start_service: StartService) -> StartService:
    """Starts services with their worker."""

    async def start(*turns: Any, **variables: str) -> Client:
        client = await start_service(*turns, **variables)
        client.service.begin_loading()  # type: ignore[union-attr]  # it runs in this process
        return client

    return start


@pytest.fixture
async def temporal(tmp_path: Path) -> AsyncIterator[TemporalServer]:
    """A Temporal server."""
    async with temporal_server(tmp_path) as server:
        yield server


@pytest.fixture
def queue() -> str:
    """A task queue of the test's own."""
    return f"queue-{uuid.uuid4().hex[:8]}"
