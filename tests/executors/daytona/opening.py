"""The Daytona executor with the emulator behind it, or with the real thing."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import SecretStr
from tests.emulator import API_KEY, Cloud, running_emulator

from runner_service.executors.daytona.boxes import Terms
from runner_service.executors.daytona.executor import Account, DaytonaExecutor, daytona_executor

GRACE = 0.25


def account(cloud: Cloud) -> Account:
    return Account(SecretStr(API_KEY), cloud.api_url)


@asynccontextmanager
async def emulated(directory: Path) -> AsyncIterator[DaytonaExecutor]:
    """An executor whose boxes are on this machine."""
    async with (
        running_emulator(directory) as cloud,
        daytona_executor(account(cloud), Terms(), terminate_grace=GRACE) as executor,
    ):
        yield executor
