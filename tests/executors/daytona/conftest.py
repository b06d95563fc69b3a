import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

import pytest
import uvloop
from tests.emulator import Cloud, running_emulator
from tests.executors.daytona.executors import account

from runner_service.executors.daytona.config import SandboxConfig
from runner_service.executors.daytona.executor import DaytonaExecutor, daytona_executor


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def cloud(tmp_path: Path) -> AsyncIterator[Cloud]:
    async with running_emulator(tmp_path / "cloud") as cloud:
        yield cloud


CONFIG = SandboxConfig(poll_interval=2.0, response_margin=2, start_timeout=60.0)
"""As always, but less patient."""


@pytest.fixture
async def executor(cloud: Cloud) -> AsyncIterator[DaytonaExecutor]:
    async with daytona_executor(account(cloud), CONFIG) as opened:
        yield opened
