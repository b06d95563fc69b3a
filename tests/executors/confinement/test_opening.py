"""While a cell opens: kills leave nothing, though bubblewrap alone would in some moments, and links lead nowhere."""

import asyncio
import json
import os
import shutil
import signal
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.executors.confinement.tracing import STAND_IN, Held

from runner_service.executors.supervisor import process_table
from runner_service.executors.supervisor.tags import Span

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")

SERVICE = """
import asyncio, sys
from pathlib import Path
from runner_service.executors.confinement import Confinement
from runner_service.executors.local.executor import local_executor
from runner_service.executors.protocol import Command, SandboxError, SandboxSpec

class Printing:
    async def write(self, stream, data):
        print(data.decode(), end="", flush=True)

async def main(base):
    level = Confinement(files="workspace")
    async with local_executor(root=base / "root", state_dir=base / "state", terminate_grace=0.25) as executor:
        print((await executor.confinement_for(level)).mechanism, flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            async with executor.open(SandboxSpec("e", confinement=level)) as sandbox:
                try:
                    await sandbox.run(Command("echo up; sleep 60", 60, Printing()))
                except SandboxError as error:
                    print(error, flush=True)

asyncio.run(main(Path(sys.argv[1])))
"""


class Service:
    def __init__(self, process: Process, directory: Path) -> None:
        self.process = process
        self._directory = directory
        self.cells = Span(*json.loads((directory / "state" / "supervisor.json").read_text())["cells"])

    async def open_a_cell(self) -> int:
        """Has a cell opened, with a command in it; returns bubblewrap, which is stopped before it has begun."""
        (self._directory / "flag").touch()
        assert self.process.stdin
        self.process.stdin.write(b"\n")
        # Alone: what the probe's cell was made of may still be ending.
        await until(lambda: [process_table.is_stopped(pid) for pid in self.tagged()] == [True])
        (self._directory / "flag").unlink()
        (pid,) = self.tagged()
        return pid

    def tagged(self) -> list[int]:
        """Returns what is left of its cells."""
        found = [each for each in process_table.all_pids() if self.cells.holds(process_table.limits_of(each))]
        return [each for each in found if each != self.process.pid and is_alive(each)]

    def supervisor(self) -> int:
        (pid,) = [each for each in process_table.children(self.process.pid) if each not in self.tagged()]
        return pid

    async def said(self) -> str:
        assert self.process.stdout
        return (await self.process.stdout.readline()).decode()


def is_alive(pid: int) -> bool:
    found = process_table.process(pid)
    return bool(found and found.is_alive)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(condition):
            await asyncio.sleep(0.01)


@pytest.fixture
def base() -> Iterator[Path]:
    """A directory that a cell shows: /tmp it would not."""
    with tempfile.TemporaryDirectory(prefix="opening-", dir="/var/tmp") as directory:
        yield Path(directory)


@pytest.fixture
async def start(base: Path) -> AsyncIterator[Callable[[], Awaitable[Service]]]:
    program = shutil.which("bwrap")
    (base / "programs").mkdir()
    stand_in = base / "programs" / "bwrap"
    stand_in.write_text(STAND_IN.format(flag=base / "flag", program=program))
    stand_in.chmod(0o755)
    environment = {**os.environ, "PATH": f"{stand_in.parent}:{os.environ['PATH']}"}
    started: list[Process] = []

    async def start() -> Service:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", SERVICE, str(base), stdin=PIPE, stdout=PIPE, env=environment
        )
        started.append(process)
        assert process.stdout
        assert (await process.stdout.readline()).startswith(b"bwrap ")
        return Service(process, base)

    yield start
    for each in started:
        if each.returncode is None:
            each.kill()
        await each.wait()


@asynccontextmanager
async def held(pid: int, forks: int) -> AsyncIterator[list[int]]:
    """Lets bubblewrap run until it has forked; gives it and what came of it."""
    with Held(pid, forks) as processes:
        try:
            await asyncio.to_thread(processes.wait)
        except PermissionError:
            pytest.skip("processes cannot be traced here")
        yield processes.pids


Start = Callable[[], Awaitable[Service]]


async def test_bubblewrap_that_is_killed_as_it_forks_ends_the_opening_and_leaves_nothing(start: Start) -> None:
    service = await start()
    async with held(await service.open_a_cell(), 1) as (bubblewrap, _):
        os.kill(bubblewrap, signal.SIGKILL)
    assert "the cell of the execution does not open: bubblewrap has ended with -9" in await service.said()
    assert service.tagged() == []
    os.kill(await service.open_a_cell(), signal.SIGCONT)
    assert await service.said() == "up\n"


@pytest.mark.parametrize("victims", ["service", "service and bubblewrap"])
@pytest.mark.parametrize("forks", [1, 2])
async def test_a_service_that_is_killed_as_bubblewrap_forks_leaves_nothing(
    start: Start, victims: str, forks: int
) -> None:
    service = await start()
    async with held(await service.open_a_cell(), forks) as (bubblewrap, *_):
        service.process.kill()
        if victims != "service":
            os.kill(bubblewrap, signal.SIGKILL)
        await service.process.wait()
    await until(lambda: service.tagged() == [])


async def test_a_service_that_is_killed_before_bubblewrap_runs_leaves_nothing(start: Start) -> None:
    service = await start()
    bubblewrap = await service.open_a_cell()
    service.process.kill()
    await service.process.wait()
    await until(lambda: service.tagged() == [])
    assert not is_alive(bubblewrap)


@pytest.mark.parametrize("sign", ["supervisor", "command"])
async def test_a_service_that_is_killed_as_its_cell_begins_leaves_nothing(start: Start, sign: str) -> None:
    service = await start()
    bubblewrap = await service.open_a_cell()
    os.kill(bubblewrap, signal.SIGCONT)
    if sign == "command":
        assert await service.said() == "up\n"
    else:
        await until(lambda: any("python" in each.name for each in process_table.walk([bubblewrap])))
    service.process.kill()
    await service.process.wait()
    await until(lambda: service.tagged() == [])


async def test_what_is_left_when_all_who_could_end_it_are_killed_goes_with_the_next_start(start: Start) -> None:
    service = await start()
    async with held(await service.open_a_cell(), 1) as (bubblewrap, first):
        for pid in (service.supervisor(), service.process.pid, bubblewrap):
            os.kill(pid, signal.SIGKILL)
        await service.process.wait()
    assert service.tagged() == [first]
    await start()
    assert service.tagged() == []


@pytest.mark.parametrize("replaced", ["sub/.git", "sub"])
async def test_what_is_replaced_by_a_link_while_a_cell_opens_shows_nothing_of_outside(
    start: Start, base: Path, replaced: str
) -> None:
    repository = base / "root" / "sub" / ".git"
    for directory in (repository, base / "outside" / ".git"):
        (directory / "hooks").mkdir(parents=True)
        (directory / "config").write_text("[core]")
    service = await start()
    bubblewrap = await service.open_a_cell()
    path = base / "root" / replaced
    path.rename(base / "root" / "aside")
    path.symlink_to("../../outside/.git" if replaced == "sub/.git" else "../outside")
    os.kill(bubblewrap, signal.SIGCONT)
    assert f"{repository} was replaced while the cell of the execution opened" in await service.said()
    assert service.tagged() == []
