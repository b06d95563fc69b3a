"""Sandboxes that are started in advance: used, counted, and never left over."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from tests.emulator import Cloud
from tests.executors.daytona.conftest import CONFIG
from tests.executors.daytona.executors import account
from tests.executors.daytona.test_sandboxes import refusal, settled
from tests.executors.recorder import output

from runner_service.executors.daytona.config import KIND, LEASE, NAME, SandboxConfig
from runner_service.executors.daytona.executor import DaytonaExecutor, daytona_executor
from runner_service.executors.protocol import SandboxSpec

WARM = replace(CONFIG, warm=2)


@asynccontextmanager
async def filling(cloud: Cloud, config: SandboxConfig) -> AsyncIterator[DaytonaExecutor]:
    """An executor that begins at once to fill its pool."""
    begin = asyncio.Event()
    begin.set()
    async with daytona_executor(account(cloud), config, begin=begin) as executor:
        yield executor


async def filled(executor: DaytonaExecutor, count: int) -> None:
    async with asyncio.timeout(40):
        while executor.warm_sandboxes() != count:
            await asyncio.sleep(0.02)


@pytest.fixture
async def executor(cloud: Cloud) -> AsyncIterator[DaytonaExecutor]:
    async with filling(cloud, SandboxConfig(warm=2, start_timeout=60.0, close_timeout=1.0)) as opened:
        await filled(opened, 2)
        yield opened


@pytest.mark.parametrize("session_id", ["", "s"])
async def test_a_first_command_finds_a_sandbox_that_is_started(
    cloud: Cloud, executor: DaytonaExecutor, session_id: str
) -> None:
    cloud.faults.start_seconds = 3600.0  # a new one would never come up
    async with executor.open(SandboxSpec("e", session_id=session_id)) as sandbox:
        assert await output(sandbox, "echo here") == "here\n"
        used = [each for each in cloud.sandboxes.values() if each.labels[KIND] != "warm"]
        assert len(used) == 1
        minutes = used[0].parameters["autoDeleteInterval"]
        assert minutes > 0 if session_id else used[0].parameters["ttlMinutes"] > 0 == minutes
    cloud.faults.start_seconds = 0.0
    if not session_id:
        async with asyncio.timeout(60):
            while used[0].id in cloud.sandboxes:
                await asyncio.sleep(0.02)


async def test_a_first_command_from_the_pool_takes_seven_requests(cloud: Cloud, executor: DaytonaExecutor) -> None:
    [one, other] = cloud.sandboxes.values()
    cloud.quota = 2  # no other one takes its place in the pool
    before = len(cloud.requests)
    async with executor.open(SandboxSpec("e", session_id="s")) as sandbox:
        assert await output(sandbox, "echo here") == "here\n"
        asked = [each for each in cloud.requests[before:] if "socket.io" not in each and "-warm-" not in each]
    used = one if one.labels[KIND] == "session" else other
    executed = [each for each in asked if each.endswith("/process/execute")]
    assert len(executed) in {2, 3}  # the session, the command; the long poll may have begun
    others = {each.replace(used.id, "ID").partition("?")[0] for each in asked if each not in executed}
    assert others - {f"GET /api/sandbox/{used.labels[NAME]}"} == {
        "POST /api/sandbox",
        "GET /api/sandbox",
        "GET /api/sandbox/ID",
        "PUT /api/sandbox/ID/labels",
        "POST /api/sandbox/ID/autodelete/10080",
    }


async def test_a_session_finds_its_sandbox_again_also_from_another_process(
    cloud: Cloud, executor: DaytonaExecutor
) -> None:
    async with executor.open(SandboxSpec("e1", session_id="s")) as sandbox:
        await sandbox.write_text("/kept", "kept")
    async with executor.open(SandboxSpec("e2", session_id="s")) as sandbox:
        assert await output(sandbox, "cat kept") == "kept"
    for config in (WARM, CONFIG):
        async with (
            daytona_executor(account(cloud), config) as other,
            other.open(SandboxSpec("e3", session_id="s")) as sandbox,
        ):
            assert await output(sandbox, "cat kept") == "kept"
    [used] = [each for each in cloud.sandboxes.values() if each.labels[KIND] == "session"]
    await executor.delete(SandboxSpec("", session_id="s"))
    async with asyncio.timeout(60):
        while used.id in cloud.sandboxes:
            await asyncio.sleep(0.02)


async def test_the_pool_is_filled_up_again_and_leaves_nothing(cloud: Cloud) -> None:
    async with filling(cloud, WARM) as executor:
        await filled(executor, 2)
        async with executor.open(SandboxSpec("e")):
            await filled(executor, 2)
            assert len(cloud.sandboxes) == 3
    await settled(cloud)


async def created(cloud: Cloud) -> None:
    """Waits until a sandbox is being created."""
    async with asyncio.timeout(60):
        while not cloud.created:
            await asyncio.sleep(0.02)


async def test_a_sandbox_that_is_being_created_at_the_end_is_deleted(cloud: Cloud) -> None:
    cloud.faults.start_seconds = 1.0
    async with filling(cloud, replace(WARM, close_timeout=20.0)):
        await created(cloud)
    await settled(cloud)


async def test_the_end_does_not_wait_for_a_sandbox_that_does_not_start_and_the_reaper_deletes_it(cloud: Cloud) -> None:
    cloud.faults.start_seconds = 3600.0
    async with asyncio.timeout(None) as end:
        async with filling(cloud, replace(WARM, close_timeout=0.5)):
            await created(cloud)
            end.reschedule(asyncio.get_running_loop().time() + 18)
    [left] = cloud.sandboxes.values()
    left.state, left.labels[LEASE] = "started", "1"
    async with asyncio.timeout(60), filling(cloud, CONFIG):
        while cloud.sandboxes:
            await asyncio.sleep(0.02)


async def test_a_warm_sandbox_that_is_gone_is_not_handed_out(cloud: Cloud, executor: DaytonaExecutor) -> None:
    for remote in list(cloud.sandboxes.values()):
        await cloud.delete(remote)
    async with executor.open(SandboxSpec("e")) as sandbox:
        assert await output(sandbox, "echo here") == "here\n"


async def test_a_full_organisation_still_serves_what_the_pool_has(cloud: Cloud, executor: DaytonaExecutor) -> None:
    cloud.quota = len(cloud.sandboxes)
    async with executor.open(SandboxSpec("e1")), executor.open(SandboxSpec("e2")):
        assert (await refusal(executor)).code == "SANDBOX_QUOTA_EXCEEDED"


async def test_the_network_and_the_volumes_are_as_they_are_set(cloud: Cloud) -> None:
    config: SandboxConfig = replace(CONFIG, network_allow_list="10.0.0.0/8", volumes=(("cache", "/cache"),))
    async with daytona_executor(account(cloud), config) as executor, executor.open(SandboxSpec("e")):
        [remote] = cloud.sandboxes.values()
        assert remote.parameters["networkAllowList"] == "10.0.0.0/8"
        assert remote.parameters["volumes"] == [{"volumeId": "volume-1", "mountPath": "/cache"}]
    unknown = replace(CONFIG, volumes=(("nowhere", "/cache"),))
    async with daytona_executor(account(cloud), unknown) as executor:
        error = await refusal(executor)
        assert (error.code, "nowhere" in str(error)) == ("SANDBOX_REFUSED", True)


async def test_a_sandbox_whose_network_is_not_limited_is_not_used(cloud: Cloud, executor: DaytonaExecutor) -> None:
    async with executor.open(SandboxSpec("e", session_id="s")):
        pass
    async with daytona_executor(account(cloud), replace(CONFIG, network_block_all=True)) as limited:
        assert "DAYTONA_NETWORK_BLOCK_ALL" in str(await refusal(limited, "s"))
