"""The Daytona executor with the emulator behind it, or with the real thing."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import SecretStr
from tests.emulator import API_KEY, Cloud, running_emulator

from runner_service.executors.daytona.attendance import CommandTerms
from runner_service.executors.daytona.boxes import Terms
from runner_service.executors.daytona.executor import Account, DaytonaExecutor, daytona_executor

COMMANDS = CommandTerms(terminate_grace=0.25)


def account(cloud: Cloud) -> Account:
    return Account(SecretStr(API_KEY), cloud.api_url)


@asynccontextmanager
async def real(directory: Path) -> AsyncIterator[DaytonaExecutor]:
    """An executor whose boxes are where the environment says; skips without a key."""
    del directory
    if "DAYTONA_API_KEY" not in os.environ:
        pytest.skip("DAYTONA_API_KEY is not set")
    there = Account(SecretStr(os.environ["DAYTONA_API_KEY"]), os.environ.get("DAYTONA_API_URL", Account.api_url))
    terms = Terms(owner="conformance", snapshot=os.environ.get("DAYTONA_DEV_TOOLS_SNAPSHOT_ID", ""), ttl_minutes=30)
    async with daytona_executor(there, terms, commands=COMMANDS) as executor:
        yield executor


@asynccontextmanager
async def emulated(directory: Path) -> AsyncIterator[DaytonaExecutor]:
    """An executor whose boxes are on this machine."""
    async with (
        running_emulator(directory) as cloud,
        daytona_executor(account(cloud), Terms(), commands=COMMANDS) as executor,
    ):
        yield executor
