"""How many requests things take: each costs a trip to Daytona and back."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from tests.emulator import Cloud
from tests.executors.daytona.executors import account
from tests.executors.recorder import Recorder, output

from runner_service.executors.daytona.config import SandboxConfig
from runner_service.executors.daytona.executor import DaytonaExecutor, daytona_executor
from runner_service.executors.protocol import Command, Sandbox, SandboxSpec

LARGE = b"".join(b"%d\n" % number for number in range(300_000))


@pytest.fixture
async def executor(cloud: Cloud) -> AsyncIterator[DaytonaExecutor]:
    """With its usual times: no poll or request ends for want of patience while others are counted."""
    async with daytona_executor(account(cloud), SandboxConfig()) as opened:
        yield opened


@pytest.fixture
async def sandbox(executor: DaytonaExecutor) -> AsyncIterator[Sandbox]:
    async with executor.open(SandboxSpec("e", session_id="s")) as opened:
        await output(opened, "true")
        yield opened


async def one_poll_only(cloud: Cloud) -> None:
    """Waits until nothing is under way but the long poll that every execution has."""
    async with asyncio.timeout(60):
        while len(cloud.in_flight) != 1:
            await asyncio.sleep(0.01)


def executed(cloud: Cloud) -> int:
    return len([request for request in cloud.requests if request.endswith("/process/execute")])


async def test_a_first_command_takes_the_creation_and_two_calls(cloud: Cloud, executor: DaytonaExecutor) -> None:
    for session_id, looked_for in (("", 0), ("s", 1)):
        cloud.requests.clear()
        async with executor.open(SandboxSpec("e", session_id=session_id)) as sandbox:
            await output(sandbox, "true")
            listed = [each for each in cloud.requests if "socket.io" not in each and each != "GET /api/sandbox"]
            assert len(listed) - looked_for <= 4  # the long poll may have begun
            assert listed.count("POST /api/sandbox") == 1


async def test_a_command_that_ends_soon_takes_at_most_two_requests(cloud: Cloud, sandbox: Sandbox) -> None:
    await one_poll_only(cloud)
    for _ in range(3):
        before = executed(cloud)
        await output(sandbox, "true")
        assert executed(cloud) - before <= 2


async def test_a_small_file_takes_one_request(cloud: Cloud, sandbox: Sandbox) -> None:
    async def little() -> AsyncIterator[bytes]:
        yield b"\0" * 100_000

    async def download() -> None:
        assert b"".join([chunk async for chunk in sandbox.download("/b")]) == b"\0" * 100_000

    await one_poll_only(cloud)
    for work in (
        lambda: sandbox.write_text("/a", "x" * 300_000),
        lambda: sandbox.read_text("/a"),
        lambda: sandbox.edit_text("/a", "x" * 300_000, "y"),
        lambda: sandbox.upload("/b", little()),
        download,
    ):
        before = list(cloud.requests)
        await work()
        now = cloud.requests[len(before) :]
        # A poll that was over may have been followed by the next.
        assert 1 <= len(now) <= 2
        assert all(request.endswith("/process/execute") for request in now)


async def test_all_commands_that_run_share_one_long_poll(cloud: Cloud, sandbox: Sandbox) -> None:
    recorders = [Recorder() for _ in range(3)]
    commands = [
        asyncio.create_task(sandbox.run(Command("until [ -e go ]; do sleep 0.02; done; echo done", 60, recorder)))
        for recorder in recorders
    ]
    await asyncio.sleep(1.2)  # each start waits for a second, since most commands end soon
    await one_poll_only(cloud)
    await sandbox.write_text("/go", "")
    assert [(await command).exit_code for command in commands] == [0, 0, 0]
    assert {bytes(recorder.stdout) for recorder in recorders} == {b"done\n"}


async def test_large_output_comes_in_few_answers(cloud: Cloud, sandbox: Sandbox) -> None:
    await sandbox.write_text("/large", LARGE.decode())
    await one_poll_only(cloud)
    before = executed(cloud)
    assert await output(sandbox, "for n in 1 2 3 4 5; do cat large; done") == LARGE.decode() * 5
    assert executed(cloud) - before <= 12


async def test_connections_are_kept(cloud: Cloud, sandbox: Sandbox) -> None:
    await one_poll_only(cloud)
    cloud.connections.clear()
    for _ in range(10):
        await output(sandbox, "true")
    assert len(cloud.connections) <= 3
