import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop
from tests.emulator import running_emulator
from tests.running import StartProcess, start_process
from tests.scale.redis_server import RedisServer, redis_server
from tests.scale.replicas import Deployment

__all__ = ["start_process"]


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def redis(tmp_path: Path) -> AsyncIterator[RedisServer]:
    async with redis_server(tmp_path / "redis") as server:
        yield server


@pytest.fixture
async def deployment(redis: RedisServer, start_process: StartProcess, tmp_path: Path) -> AsyncIterator[Deployment]:
    async with running_emulator(tmp_path / "cloud") as cloud:
        yield Deployment(redis, cloud, start_process, tmp_path)
