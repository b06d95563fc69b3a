from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.executors.conftest import opened_locally

from runner_service.executors.protocol import Executor


@pytest.fixture
async def executor(tmp_path: Path) -> AsyncIterator[Executor]:
    async with opened_locally(tmp_path) as opened:
        yield opened
