"""Another version of the service takes over a sandbox, and the attendant that works in it."""

import asyncio
import os
import shutil
import sys
from pathlib import Path

from tests.emulator import API_KEY, Cloud
from tests.executors.recorder import Recorder, output

import runner_service
from runner_service.executors.daytona.bundle import bundle
from runner_service.executors.daytona.executor import DaytonaExecutor
from runner_service.executors.protocol import Command, SandboxSpec

EXPECTED = b"".join(b"%d\n" % number for number in range(1, 30001))
OLDER = """
import asyncio, sys
from runner_service.executors.protocol import Command, SandboxSpec
from runner_service.executors.daytona.config import SandboxConfig
from runner_service.executors.daytona.executor import Account, daytona_executor
from runner_service.settings import SecretStr

class Sink:
    async def write(self, stream, data):
        print("running", flush=True)

async def main(url, key, text):
    async with daytona_executor(Account(SecretStr(key), url), SandboxConfig()) as executor:
        async with executor.open(SandboxSpec("e", session_id="s")) as sandbox:
            await sandbox.run(Command(text, 60, Sink(), name="call"))

asyncio.run(main(*sys.argv[1:]))
"""


def older_version(directory: Path) -> Path:
    """Returns a directory with a version of the package whose bundle is another."""
    package = directory / "runner_service"
    shutil.copytree(Path(runner_service.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__"))
    with (package / "executors" / "attendant" / "output_buffer.py").open("a") as source:
        source.write("# older\n")
    return directory


async def test_a_newer_version_goes_on_with_a_command_of_an_older_one(
    cloud: Cloud, executor: DaytonaExecutor, tmp_path: Path
) -> None:
    older = await asyncio.to_thread(older_version, tmp_path / "older")
    text = "echo once >> effects; seq 30000; until [ -e go ]; do sleep 0.02; done; exit 3"
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-c", OLDER, cloud.api_url, API_KEY, text),
        env={**os.environ, "PYTHONPATH": str(older)},
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout
    assert await process.stdout.readline() == b"running\n"
    process.kill()
    await process.communicate()

    async with executor.open(SandboxSpec("e", session_id="s")) as sandbox:
        recorder = Recorder()
        resumed = asyncio.create_task(sandbox.resume(Command("", 60, recorder, name="call")))
        await recorder.arrived(b"30000\n")
        assert await output(sandbox, "cat effects; touch go") == "once\n"
        assert (await resumed).exit_code == 3
        assert bytes(recorder.stdout) == EXPECTED
        (attendant,) = await asyncio.to_thread(_attendants, cloud)
        assert not attendant.startswith(bundle().name)
    async with executor.open(SandboxSpec("next", session_id="s")) as sandbox:
        assert await output(sandbox, "cat effects") == "once\n"
        assert len(others := await asyncio.to_thread(_attendants, cloud)) == 2  # the next one is our own version's
        assert attendant in others


def _attendants(cloud: Cloud) -> set[str]:
    (remote,) = cloud.sandboxes.values()
    return {path.parent.name for path in (remote.directory / "tmp").glob("runner-service-*/socket")}
