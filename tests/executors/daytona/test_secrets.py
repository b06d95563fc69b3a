"""Secrets reach the commands of a sandbox and nothing else there, nor the log of the service."""

import asyncio
import logging

import pytest
from tests.emulator import Cloud
from tests.emulator.processes import programs_of
from tests.executors.recorder import Recorder, output
from tests.running import holding

from runner_service.executors.daytona.executor import DaytonaExecutor
from runner_service.executors.protocol import Command, SandboxSpec

SECRET = "s3cret-of-the-caller"


@pytest.mark.parametrize("size", [0, 1_500_000], ids=["in variables", "too large for variables"])
async def test_a_secret_is_in_no_argument_list_no_file_no_text_of_a_call_and_no_log(
    cloud: Cloud, executor: DaytonaExecutor, caplog: pytest.LogCaptureFixture, size: int
) -> None:
    caplog.set_level(logging.DEBUG)
    recorder = Recorder()
    environment = {"TOKEN": SECRET, "RUNNER_LARGE": ""}
    async with executor.open(SandboxSpec("e", session_id="s", environment=environment)) as sandbox:
        await sandbox.write_text("/large", "x" * size)
        text = 'test -n "$TOKEN" && echo ${#TOKEN}; until [ -e go ]; do sleep 0.02; done'
        command = asyncio.create_task(sandbox.run(Command(text, 60, recorder)))
        await recorder.arrived(f"{len(SECRET)}\n".encode())
        [remote] = cloud.sandboxes.values()
        programs = await asyncio.to_thread(programs_of, remote.id)
        assert programs
        assert SECRET.encode() not in b"".join(programs.values())
        assert not await asyncio.to_thread(holding, remote.directory, SECRET)
        assert SECRET not in str(remote.executed)
        await sandbox.write_text("/go", "")
        assert (await command).exit_code == 0
        assert await output(sandbox, "ls ${TMPDIR}/*/transfers | wc -l") == "0\n"
    assert SECRET not in caplog.text


async def test_an_environment_that_is_too_large_for_variables_leaves_no_file(
    cloud: Cloud, executor: DaytonaExecutor
) -> None:
    environment = {"TOKEN": SECRET, **{f"PADDING_{number}": "x" * 100_000 for number in range(9)}}
    async with executor.open(SandboxSpec("e", session_id="s", environment=environment)) as sandbox:
        assert await output(sandbox, "echo ${#TOKEN}") == f"{len(SECRET)}\n"
        [remote] = cloud.sandboxes.values()
        assert not await asyncio.to_thread(holding, remote.directory, SECRET)
