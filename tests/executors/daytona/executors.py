"""The Daytona executor with the emulator behind it, or with the real thing."""

import asyncio
import io
import os
import secrets
import subprocess
import zipfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path

import pytest
from daytona import AsyncDaytona, DaytonaConfig, ListSandboxesQuery
from tests.emulator import API_KEY, Cloud, running_emulator

from runner_service.executors.daytona.bundle import bundle
from runner_service.executors.daytona.config import OWNER, SandboxConfig
from runner_service.executors.daytona.executor import Account, DaytonaExecutor, daytona_executor
from runner_service.executors.daytona.session import CommandLimits
from runner_service.settings import SecretStr

later_sdk_only = pytest.mark.skipif(
    version("daytona") == "0.200.0", reason="the earliest SDK reads what early servers answer; it splits logs wrongly"
)
"""What concerns servers that the SDK cannot read, and the SDK's log streaming, which the service does not use."""

_PATH = {"PATH": "/usr/local/bin:/usr/bin:/bin"}  # of sandboxes


def account(cloud: Cloud) -> Account:
    return Account(SecretStr(API_KEY), cloud.api_url)


@asynccontextmanager
async def real(directory: Path) -> AsyncIterator[DaytonaExecutor]:
    """An executor whose sandboxes are where the environment says; skips without a key.

    Each has an owner of its own, so that several can be at work, and its root is an empty directory.
    """
    del directory
    if "DAYTONA_API_KEY" not in os.environ:
        pytest.skip("DAYTONA_API_KEY is not set")
    there = Account(SecretStr(os.environ["DAYTONA_API_KEY"]), os.environ.get("DAYTONA_API_URL", Account.api_url))
    owner = f"conformance-{secrets.token_hex(4)}"
    snapshot = os.environ.get("DAYTONA_DEV_TOOLS_SNAPSHOT_ID", "")
    config = SandboxConfig(owner=owner, snapshot=snapshot, ttl_minutes=30, directory=owner)
    try:
        async with daytona_executor(there, config) as executor:
            yield executor
    finally:
        await delete_sandboxes_of(owner, there)


async def delete_sandboxes_of(owner: str, account: Account) -> None:
    """Deletes what the tests have left, such as the sandboxes of sessions."""
    config = DaytonaConfig(api_key=account.api_key.get_secret_value(), api_url=account.api_url, target="any")
    async with AsyncDaytona(config) as client:
        async for sandbox in client.list(ListSandboxesQuery(labels={OWNER: owner})):
            await sandbox.delete()


def image(directory: Path) -> Path:
    """Makes, once, a directory that holds the attendant as its installation leaves it, with what Python compiles."""
    if not directory.exists():
        sent = bundle().for_limits(CommandLimits())
        installed = directory / sent.name
        zipfile.ZipFile(io.BytesIO(sent.data)).extractall(installed)
        (installed / "transfers").mkdir()
        subprocess.run(["/usr/bin/env", "python3", "-m", "compileall", "-q", installed], env=_PATH, check=True)
    return directory


@asynccontextmanager
async def emulated(directory: Path) -> AsyncIterator[DaytonaExecutor]:
    """An executor on the emulator, with the attendant preinstalled; other tests cover its installation."""
    async with (
        running_emulator(directory) as cloud,
        daytona_executor(account(cloud), SandboxConfig(directory="workspace")) as executor,
    ):
        cloud.image = await asyncio.to_thread(image, directory.parent / "image")
        yield executor
