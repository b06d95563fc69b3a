"""The emulator itself: that it can be used by hand, and leaves nothing running even if it is killed."""

import asyncio
import os
import sys
from pathlib import Path

import pytest
from tests.emulator import API_KEY, Cloud, Faults
from tests.emulator.errors import Refused
from tests.emulator.processes import marked
from tests.executors.daytona.executors import real
from tests.executors.recorder import output

from runner_service.executors.daytona.config import SandboxConfig
from runner_service.executors.daytona.executor import Account, daytona_executor
from runner_service.executors.protocol import SandboxSpec
from runner_service.settings import SecretStr


async def test_what_is_meant_for_the_real_one_runs_in_parallel_and_cleans_up(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DAYTONA_API_KEY", API_KEY)
    monkeypatch.setenv("DAYTONA_API_URL", cloud.api_url)
    monkeypatch.delenv("DAYTONA_DEV_TOOLS_SNAPSHOT_ID", raising=False)
    spec = SandboxSpec("execution-1", session_id="s")
    async with real(tmp_path) as one, real(tmp_path) as two, one.open(spec) as a, two.open(spec) as b:
        await a.write_text("/mine", "")
        assert [await output(each, "ls -A; touch ../writable") for each in (a, b)] == ["mine\n", ""]
        assert len(cloud.sandboxes) == 2
    async with asyncio.timeout(60):
        while cloud.sandboxes:
            await asyncio.sleep(0.02)


async def test_when_it_is_closed_a_service_that_runs_on_gets_no_more_sandboxes(tmp_path: Path) -> None:
    cloud = Cloud(tmp_path, Faults())
    cloud.create({})
    closing = asyncio.create_task(cloud.close())
    await asyncio.sleep(0)
    while not closing.done():
        with pytest.raises(Refused, match="limit exceeded"):
            cloud.create({})
        await asyncio.sleep(0)
    await closing
    assert not cloud.sandboxes


async def test_by_hand_it_says_how_to_be_used_and_killed_it_leaves_nothing(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.emulator", "--port", "0"),
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    said = (await process.stdout.readline()).decode().split()
    url, key = (word.partition("=")[2] for word in said[1:])
    config = SandboxConfig(start_timeout=60.0, poll_interval=1.0, response_margin=1)
    spec = SandboxSpec("e", session_id="s", is_interrupted=lambda: True)  # nothing is asked for in the end
    async with daytona_executor(Account(SecretStr(key), url), config) as executor, executor.open(spec) as sandbox:
        await output(sandbox, "setsid -f sleep 85.01")
        (remote,) = await asyncio.to_thread(lambda: list(tmp_path.glob("daytona-*/*")))
        mark = f"DAYTONA_SANDBOX_ID={remote.name}"
        assert await asyncio.to_thread(marked, mark)
        process.kill()
        await process.wait()
        async with asyncio.timeout(60):
            while await asyncio.to_thread(marked, mark):
                await asyncio.sleep(0.05)
            await process.communicate()  # whatever held its output is gone as well
