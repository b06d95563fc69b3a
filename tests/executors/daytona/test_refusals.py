"""What the toolbox and its proxy refuse says little: the sandbox's state decides what becomes of the execution."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from tests.emulator import Cloud
from tests.executors.daytona.conftest import CONFIG
from tests.executors.daytona.executors import account
from tests.executors.recorder import Recorder, output, run

from runner_service.executors.daytona.executor import DaytonaExecutor, daytona_executor
from runner_service.executors.protocol import Command, Sandbox, SandboxError, SandboxSpec

EXEC = r"POST .*/process/execute"


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
async def sandbox(executor: DaytonaExecutor, notices: list[str]) -> AsyncIterator[Sandbox]:
    spec = SandboxSpec("e", session_id="s", notify=lambda code, text: notices.append(code))
    async with executor.open(spec) as opened:
        await opened.write_text("/kept", "kept")
        yield opened


async def refused(sandbox: Sandbox) -> SandboxError:
    with pytest.raises(SandboxError) as refusal:
        await output(sandbox, "true")
    return refusal.value


@pytest.mark.parametrize("stop_seconds", [0.0, 0.5])
async def test_a_sandbox_that_stopped_is_started_again_with_its_files_and_a_notice(
    cloud: Cloud, sandbox: Sandbox, notices: list[str], stop_seconds: float
) -> None:
    cloud.faults.stop_seconds = stop_seconds
    (remote,) = cloud.sandboxes.values()
    stopping = asyncio.create_task(cloud.stop(remote))
    await asyncio.sleep(0)
    if not stop_seconds:
        await stopping
    assert await sandbox.edit_text("/kept", "kept", "still kept") == 1
    assert await output(sandbox, "cat kept") == "still kept"
    assert notices.count("SANDBOX_RESTARTED") == 1
    await stopping


async def test_a_sandbox_whose_daemon_was_killed_is_started_again(
    cloud: Cloud, sandbox: Sandbox, notices: list[str]
) -> None:
    (remote,) = cloud.sandboxes.values()
    assert remote.daemon
    os.kill(remote.daemon.pid, signal.SIGKILL)
    async with asyncio.timeout(60):
        while remote.state == "started":
            await asyncio.sleep(0.01)
    assert await output(sandbox, "cat kept") == "kept"
    assert "SANDBOX_RESTARTED" in notices


async def test_an_archived_sandbox_is_restored(cloud: Cloud, sandbox: Sandbox, notices: list[str]) -> None:
    (remote,) = cloud.sandboxes.values()
    await cloud.stop(remote)
    remote.state = "archived"
    assert await output(sandbox, "cat kept") == "kept"
    assert "SANDBOX_RESTARTED" in notices


@pytest.mark.parametrize("proxy_remembers", [True, False])
async def test_a_sandbox_that_was_deleted_is_lost_whatever_the_proxy_answers(
    cloud: Cloud, sandbox: Sandbox, proxy_remembers: bool
) -> None:
    cloud.faults.proxy_remembers = proxy_remembers
    (remote,) = cloud.sandboxes.values()
    await cloud.delete(remote)
    assert (await refused(sandbox)).code == "SANDBOX_LOST"


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seconds", [0.0, pytest.param(180.0, marks=pytest.mark.long)])
async def test_a_command_goes_on_when_the_api_was_away_for_longer_than_the_proxy_remembers(
    cloud: Cloud, sandbox: Sandbox, seconds: float
) -> None:
    recorder = Recorder()
    text = "echo started; until [ -e go ]; do sleep 0.02; done; echo ended"
    command = asyncio.create_task(sandbox.run(Command(text, 300, recorder)))
    await recorder.arrived(b"started\n")
    cloud.faults.is_api_away, cloud.faults.proxy_remembers = True, False
    (remote,) = cloud.sandboxes.values()
    await asyncio.to_thread((remote.work / "go").touch)
    await asyncio.sleep(seconds)
    while len([each for each in cloud.requests if each.startswith("GET /api/sandbox/")]) < 4:
        await asyncio.sleep(0.05)
    assert not command.done()
    cloud.faults.is_api_away, cloud.faults.proxy_remembers = False, True
    assert (await command).exit_code == 0
    assert bytes(recorder.stdout) == b"started\nended\n"


async def test_an_api_that_stays_away_ends_the_execution_and_can_be_tried_again(cloud: Cloud) -> None:
    config = replace(CONFIG, outage_timeout=1.0)
    async with (
        daytona_executor(account(cloud), config) as executor,
        executor.open(SandboxSpec("e", session_id="s")) as sandbox,
    ):
        cloud.faults.is_api_away, cloud.faults.proxy_remembers = True, False
        error = await refused(sandbox)
        cloud.faults.is_api_away = False
    assert (error.code, error.retryable) == ("SANDBOX_UNAVAILABLE", True)


async def test_one_refused_key_in_fifteen_answers_is_not_noticed(cloud: Cloud, executor: DaytonaExecutor) -> None:
    cloud.faults.unauthorized_every = 15
    for number in range(5):
        async with executor.open(SandboxSpec(f"e{number}")) as sandbox:
            for _ in range(5):
                result, stdout, _ = await run(sandbox, "echo once >> effects; cat effects")
            assert (result.exit_code, stdout) == (0, b"once\n" * 5)
            await sandbox.write_text("/a", "x")
            assert await sandbox.edit_text("/a", "x", "xx") == 1


async def test_only_the_apis_own_refusal_is_a_wrong_key(cloud: Cloud, sandbox: Sandbox) -> None:
    toolbox = cloud.faults.add(EXEC, "401", 1_000_000)
    api = cloud.faults.add(r"/api/", "401", 1_000_000)
    error = await refused(sandbox)
    toolbox.times = api.times = 0
    assert (error.code, error.retryable) == ("SANDBOX_UNAUTHENTICATED", False)


async def test_a_toolbox_that_refuses_for_ever_although_all_is_well_can_be_tried_again(
    cloud: Cloud, caplog: pytest.LogCaptureFixture
) -> None:
    async with (
        daytona_executor(account(cloud), replace(CONFIG, outage_timeout=1.0)) as executor,
        executor.open(SandboxSpec("e", session_id="s")) as sandbox,
    ):
        toolbox = cloud.faults.add(EXEC, "401", 1_000_000)
        refusal = asyncio.create_task(refused(sandbox))
        while "poll_failed" not in caplog.text:
            await asyncio.sleep(0.05)
        toolbox.times = 0  # or the command would be told to end for half a minute
        error = await refusal
    assert (error.code, error.retryable) == ("SANDBOX_UNAVAILABLE", True)
