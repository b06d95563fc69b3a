"""Input of commands in sandboxes: each byte once, whatever goes wrong, and no command that nobody feeds any more."""

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from tests.emulator import Cloud
from tests.executors.daytona.conftest import CONFIG
from tests.executors.daytona.executors import account
from tests.executors.daytona.test_faults import ANY_CALL, EXEC
from tests.executors.recorder import Recorder, all_gone, appeared

from runner_service.executors.daytona.executor import DaytonaExecutor, daytona_executor
from runner_service.executors.protocol import Command, SandboxSpec, Stream

SHORT = replace(CONFIG, poll_interval=0.2, stdin_idle_timeout=4.0)
"""Polls often, and takes a command for forsaken soon."""


async def nothing_for_ever() -> AsyncIterator[bytes]:
    await asyncio.Event().wait()
    yield b""


@pytest.fixture
async def impatient(cloud: Cloud) -> AsyncIterator[DaytonaExecutor]:
    async with daytona_executor(account(cloud), SHORT) as opened:
        yield opened


@ANY_CALL
async def test_input_arrives_once_and_in_order_whatever_goes_wrong(
    cloud: Cloud, executor: DaytonaExecutor, how: str
) -> None:
    recorder = Recorder()
    given = b"".join(b"%d\n" % number for number in range(100_000))

    async def pieces() -> AsyncIterator[bytes]:
        yield given[:10]
        await recorder.arrived(given[:10])
        faults.extend(cloud.faults.add(EXEC, how, 2, skip=skip) for skip in (0, 3))  # type: ignore[arg-type]  # its kind
        for start in range(10, len(given), 99_991):
            yield given[start : start + 99_991]
            await asyncio.sleep(0.05)

    faults: list[object] = []
    async with executor.open(SandboxSpec("e", session_id="s")) as sandbox:
        result = await sandbox.run(Command("cat", 60, recorder, stdin=pieces()))
    assert (result.exit_code, bytes(recorder.stdout)) == (0, given)
    assert not cloud.faults.plan[0].times


async def test_a_command_that_nobody_asks_about_any_more_is_ended_in_its_sandbox(
    cloud: Cloud, impatient: DaytonaExecutor
) -> None:
    """As when the service was killed: here it is cut off."""
    async with impatient.open(SandboxSpec("e", session_id="s")) as sandbox:
        command = asyncio.create_task(
            sandbox.run(Command("sleep 82.41; true", 60, Recorder(), stdin=nothing_for_ever()))
        )
        await appeared(sandbox, "82.41")
        cut = cloud.faults.add(EXEC, "502", 1_000_000)
        async with asyncio.timeout(60):
            while await asyncio.to_thread(subprocess.getoutput, "pgrep -fx 'sleep 82.41'"):
                await asyncio.sleep(0.05)
        cut.times = 0
        command.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await command


async def test_a_command_that_is_fed_nothing_for_long_goes_on_although_nobody_takes_its_output(
    impatient: DaytonaExecutor,
) -> None:
    class Stalled(Recorder):
        async def write(self, stream: Stream, data: bytes) -> None:
            await asyncio.sleep(4.5)
            await super().write(stream, data)

    recorder = Stalled()
    async with impatient.open(SandboxSpec("e")) as sandbox:
        result = await sandbox.run(Command("echo one; sleep 4.5; echo two", 60, recorder, stdin=nothing_for_ever()))
    assert (result.exit_code, bytes(recorder.stdout)) == (0, b"one\ntwo\n")


async def test_a_drain_ends_a_command_that_is_fed_and_leaves_others(executor: DaytonaExecutor) -> None:
    interrupted = SandboxSpec("e", session_id="s", is_interrupted=lambda: True)
    async with executor.open(interrupted) as sandbox:
        fed = Command("sleep 82.42; true", 60, Recorder(), stdin=nothing_for_ever())
        commands = [
            asyncio.create_task(sandbox.run(each))
            for each in (fed, Command("sleep 82.43; true", 60, Recorder(), name="call"))
        ]
        await appeared(sandbox, "82.42")
        await appeared(sandbox, "82.43")
        for command in commands:
            command.cancel()
        await asyncio.wait(commands)
        assert await all_gone(sandbox, "82.42")
        assert not await all_gone(sandbox, "82.43")
