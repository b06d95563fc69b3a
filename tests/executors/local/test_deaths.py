"""What becomes of commands when the service, the supervisor, or both die."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.executors.confinement.test_private import nest
from tests.executors.conftest import opened_locally
from tests.executors.recorder import Recorder, all_gone, appeared, living, output, run

from runner_service.executors.local.executor import local_executor
from runner_service.executors.protocol import Command, Executor, Sandbox, SandboxError, SandboxSpec

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="proves what Linux offers")

SERVICE = Path(__file__).with_name("service.py")
LEAVE = "sleep {0} & setsid -f sleep {0}; env -i setsid -f sleep {0}; setsid -f sh -c \"trap '' TERM; sleep {0}; true\""


@asynccontextmanager
async def service(directory: Path, *commands: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Runs a service of its own until the block ends; all its commands have run when this begins."""
    arguments = [sys.executable, str(SERVICE), str(directory / "root"), str(directory / "state"), *commands]
    process = await asyncio.create_subprocess_exec(*arguments, stdout=asyncio.subprocess.PIPE)
    assert process.stdout
    try:
        async with asyncio.timeout(30):
            await process.stdout.readuntil(b"all ran\n")
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@pytest.fixture
async def watcher(tmp_path: Path) -> AsyncIterator[Sandbox]:
    """A sandbox of another executor, which looks on."""
    async with (
        local_executor(root=tmp_path / "watch", state_dir=tmp_path / "watch-state", terminate_grace=0.25) as executor,
        executor.open(SandboxSpec("watcher")) as sandbox,
    ):
        yield sandbox


async def vanished(sandbox: Sandbox, marker: str) -> None:
    async with asyncio.timeout(60):
        while not await all_gone(sandbox, marker):
            await asyncio.sleep(0.02)


def supervisor_of(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    (found,) = [int(child) for child in children if b"supervisor" in arguments_of(int(child))]
    return found


def arguments_of(pid: int) -> bytes:
    """Returns the command line of a process; nothing when it is gone or a zombie."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


async def test_the_death_of_the_service_ends_every_descendant(tmp_path: Path, watcher: Sandbox) -> None:
    async with service(tmp_path, LEAVE.format("72.01")) as process:
        await appeared(watcher, "72.01", 4)
        process.kill()
        await process.wait()
        await vanished(watcher, "72.01")


async def test_the_death_of_the_service_ends_its_supervisor(tmp_path: Path, watcher: Sandbox) -> None:
    async with service(tmp_path) as process:
        supervisor = supervisor_of(process.pid)
        process.kill()
        await process.wait()
        async with asyncio.timeout(60):
            while arguments_of(supervisor):
                await asyncio.sleep(0.02)


async def test_the_death_of_one_service_leaves_the_commands_of_another(tmp_path: Path, watcher: Sandbox) -> None:
    await run(watcher, LEAVE.format("72.02"))
    await appeared(watcher, "72.02", 4)
    async with service(tmp_path, LEAVE.format("72.03")) as process:
        process.kill()
        await process.wait()
        await vanished(watcher, "72.03")
    assert len(await living(watcher, "72.02")) >= 4


async def test_a_start_removes_what_a_crash_has_left_of_scans_however_deep_it_is(tmp_path: Path) -> None:
    scans = tmp_path / "state" / "scans"
    scans.mkdir(parents=True)
    nest(str(scans), 1200, 1)
    async with opened_locally(tmp_path):
        assert not scans.exists()


async def test_a_start_after_a_crash_ends_orphans(tmp_path: Path, watcher: Sandbox) -> None:
    await run(watcher, LEAVE.format("72.05"))
    async with service(tmp_path, LEAVE.format("72.04")) as process:
        await appeared(watcher, "72.04", 4)
        supervisor = supervisor_of(process.pid)
        os.kill(supervisor, signal.SIGSTOP)
        process.kill()
        await process.wait()
        assert len(await living(watcher, "72.04")) >= 4
    try:
        async with service(tmp_path):
            assert await all_gone(watcher, "72.04")
            assert len(await living(watcher, "72.05")) >= 4
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(supervisor, signal.SIGCONT)


async def test_a_record_of_an_earlier_boot_ends_nothing(tmp_path: Path, watcher: Sandbox) -> None:
    await run(watcher, "setsid -f sleep 72.06")
    state = tmp_path / "state"
    state.mkdir()
    note = json.loads((tmp_path / "watch-state" / "supervisor.json").read_text())
    (state / "supervisor.json").write_text(json.dumps({**note, "boot_id": "another"}))
    async with service(tmp_path):
        assert len(await living(watcher, "72.06")) == 1


@pytest.mark.parametrize("note", ["", "{", "[]", '{"boot_id": 1}', '{"zone": [1]}'])
async def test_a_damaged_record_does_not_prevent_a_start(tmp_path: Path, note: str) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "supervisor.json").write_text(note)
    async with local_executor(root=tmp_path / "root", state_dir=tmp_path / "state") as executor:
        assert executor.process_control


async def test_a_second_service_with_the_same_state_is_refused(tmp_path: Path) -> None:
    async with local_executor(root=tmp_path / "root", state_dir=tmp_path / "state"):
        with pytest.raises(SandboxError, match="in use"):
            async with local_executor(root=tmp_path / "root", state_dir=tmp_path / "state"):
                pass


async def test_the_state_can_be_used_again_after_an_ordinary_end(tmp_path: Path) -> None:
    for _ in range(2):
        opened = local_executor(root=tmp_path / "root", state_dir=tmp_path / "state")
        async with opened as executor, executor.open(SandboxSpec("e")) as sandbox:
            assert await output(sandbox, "echo again") == "again\n"


async def test_the_loss_of_the_supervisor_ends_what_ran_and_another_takes_over(
    executor: Executor, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = Recorder()
    async with executor.open(SandboxSpec("e")) as sandbox:
        running = asyncio.create_task(sandbox.run(Command("setsid -f sleep 72.07; echo up; sleep 72.07", 60, recorder)))
        await recorder.arrived(b"up\n")
        os.kill(supervisor_of(os.getpid()), signal.SIGKILL)
        with pytest.raises(SandboxError):
            await running
    async with executor.open(SandboxSpec("later")) as later:
        await eventually_runs(later)
        assert await all_gone(later, "72.07")
    assert "supervisor_lost" in caplog.text


async def eventually_runs(sandbox: Sandbox) -> None:
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(SandboxError):
                await run(sandbox, "true")
                return
            await asyncio.sleep(0.05)


async def test_two_executors_of_one_process_do_not_touch_each_other(tmp_path: Path, watcher: Sandbox) -> None:
    await run(watcher, LEAVE.format("72.08"))
    async with local_executor(root=tmp_path / "root", state_dir=tmp_path / "state", terminate_grace=0.25) as other:
        async with other.open(SandboxSpec("e")) as sandbox:
            await run(sandbox, LEAVE.format("72.09"))
            await appeared(watcher, "72.09", 4)
        assert await all_gone(watcher, "72.09")
        assert len(await living(watcher, "72.08")) >= 4
    assert len(await living(watcher, "72.08")) >= 4


async def test_a_service_within_a_command_ends_with_that_command(tmp_path: Path, executor: Executor) -> None:
    """The inner service marks its own commands; the outer one still knows that they are its command's."""
    inner = f"{sys.executable} {SERVICE} {tmp_path}/inner {tmp_path}/inner-state"
    recorder = Recorder()
    async with executor.open(SandboxSpec("outer")) as outer, executor.open(SandboxSpec("bystander")) as bystander:
        await run(bystander, "setsid -f sleep 72.11")
        text = f"setsid -w {inner} 'setsid -f sleep 72.10; sleep 72.10 &'"
        command = asyncio.create_task(outer.run(Command(text, 60, recorder)))
        await recorder.arrived(b"all ran\n")
        await appeared(bystander, "72.10", 2)
        command.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await command
        assert await all_gone(bystander, "72.10")
        assert len(await living(bystander, "72.11")) == 1


async def test_what_a_killed_inner_service_left_is_still_known_to_the_outer(tmp_path: Path, executor: Executor) -> None:
    """All that could tell by descent is gone, but the inner tags lie within the outer one."""
    inner = f"{sys.executable} {SERVICE} {tmp_path}/inner {tmp_path}/inner-state"
    kill_all = "kill -STOP $(cat sup); kill -KILL $svc $(cat sup); wait $svc"
    text = f"""{inner} 'setsid -f sleep 72.12; cut -d" " -f4 /proc/$$/stat > {tmp_path}/root/sup' > said & svc=$!
        until grep -q 'all ran' said; do sleep 0.05; done; {kill_all}; echo killed"""
    async with executor.open(SandboxSpec("outer")) as outer, executor.open(SandboxSpec("bystander")) as bystander:
        assert await output(outer, text) == "killed\n"
        assert len(await living(bystander, "72.12")) == 1
        await run(bystander, "true")
        assert len(await living(bystander, "72.12")) == 1
    async with executor.open(SandboxSpec("later")) as later:
        assert await all_gone(later, "72.12")
