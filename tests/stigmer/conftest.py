from collections.abc import AsyncIterator

import pytest
from tests.running import start, start_process
from tests.stigmer.fake_daemon import FakeDaemon, served

__all__ = ["daemon", "start", "start_process"]


@pytest.fixture
async def daemon() -> AsyncIterator[FakeDaemon]:
    """A daemon that has an agent, and serves."""
    fake = FakeDaemon()
    fake.agent()
    async with served(fake):
        yield fake
