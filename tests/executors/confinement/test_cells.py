"""Cells: what opens, what is seen inside, and what becomes of them when something is killed."""

import asyncio
import contextlib
import os
import shutil
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.executors.conftest import opened_locally
from tests.executors.recorder import Recorder, all_gone, appeared, output, run

from runner_service.executors.confinement import Confinement
from runner_service.executors.protocol import Command, ConfinementError, Executor, Sandbox, SandboxError, SandboxSpec

pytestmark = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")

WORKSPACE = Confinement(files="workspace")


@pytest.fixture
async def executor(tmp_path: Path) -> AsyncIterator[Executor]:
    async with opened_locally(tmp_path) as opened:
        yield opened


@asynccontextmanager
async def cell(executor: Executor, level: Confinement = WORKSPACE, session: str = "") -> AsyncIterator[Sandbox]:
    async with executor.open(SandboxSpec("e", session, confinement=level)) as sandbox:
        yield sandbox


@pytest.mark.parametrize("files", ["workspace", "read_only", "strict"])
@pytest.mark.parametrize("network", ["all", "none"])
async def test_what_is_in_force_is_what_was_asked_for(executor: Executor, files: str, network: str) -> None:
    asked = Confinement(files=files, network=network)  # type: ignore[arg-type]  # of the parameters
    in_force = await executor.confinement_for(asked)
    assert in_force
    assert (in_force.files, in_force.network) == (files, network)
    assert in_force.mechanism.startswith("bwrap 0.")
    async with cell(executor, asked) as sandbox:
        written = (await run(sandbox, "echo x > file"))[0].exit_code == 0
        assert written is (files != "read_only")
        assert await output(sandbox, "echo y > /tmp/file; cat /tmp/file") == "y\n"


async def test_without_bubblewrap_a_level_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "bwrap" else f"/bin/{name}")
    async with opened_locally(tmp_path) as executor:
        with pytest.raises(ConfinementError, match="bwrap is not on the PATH; install bubblewrap") as refused:
            async with cell(executor):
                pass
        assert not refused.value.retryable
        async with executor.open(SandboxSpec("e")) as sandbox:
            assert await output(sandbox, "echo free") == "free\n"


async def test_a_server_of_one_command_is_reached_by_the_next_and_ends_with_the_cell(executor: Executor) -> None:
    async with cell(executor, Confinement(files="workspace", network="none")) as sandbox:
        await run(sandbox, "python3 -m http.server 8123 --bind 127.0.0.1 > /dev/null 2>&1 & echo $! > pid")
        answer = (
            "for i in $(seq 100); do (exec 3<>/dev/tcp/127.0.0.1/8123) 2>/dev/null && echo up && exit; sleep 0.1; done"
        )
        assert await output(sandbox, answer) == "up\n"
    async with cell(executor, Confinement(files="workspace", network="none")) as sandbox:
        assert await output(sandbox, "(exec 3<>/dev/tcp/127.0.0.1/8123) 2>/dev/null || echo down") == "down\n"


async def test_a_session_keeps_its_private_directories_and_shares_them_with_nobody(executor: Executor) -> None:
    async with cell(executor, session="one") as sandbox:
        await output(sandbox, 'mkdir -p "$XDG_CACHE_HOME"; echo mine | tee /tmp/note > "$XDG_CACHE_HOME/note"')
    async with cell(executor, session="two") as sandbox:
        assert await output(sandbox, 'ls -A /tmp "$XDG_CACHE_HOME" 2>/dev/null | grep -c note || true') == "0\n"
    async with cell(executor, session="one") as sandbox:
        assert await output(sandbox, 'cat /tmp/note "$XDG_CACHE_HOME/note"') == "mine\nmine\n"


async def test_an_execution_without_a_session_leaves_no_private_directory(tmp_path: Path, executor: Executor) -> None:
    async with cell(executor) as sandbox:
        await output(sandbox, "mkdir /tmp/closed; touch /tmp/closed/file; chmod 000 /tmp/closed")
    assert list((tmp_path / "state" / "private").iterdir()) == []


def bubblewrap_of(pid: int) -> int:
    """Returns the bubblewrap that a process has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    (found,) = [int(each) for each in children if b"bwrap" in Path(f"/proc/{each}/cmdline").read_bytes()]
    return found


def below(pid: int) -> list[int]:
    children = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return [*children, *(deeper for child in children for deeper in below(child))]


def supervisor_in(bubblewrap: int) -> int:
    """Returns the supervisor, which is two below: between them is the init of the cell."""
    (init,) = below(bubblewrap)[:1]
    (found,) = [each for each in below(init) if b"main_in_cell" in Path(f"/proc/{each}/cmdline").read_bytes()]
    return found


@pytest.mark.parametrize("victim", ["bubblewrap", "supervisor"])
async def test_what_kills_a_cell_ends_all_in_it_and_nobody_else(executor: Executor, victim: str) -> None:
    async with executor.open(SandboxSpec("watcher")) as watcher, cell(executor) as sandbox:
        recorder = Recorder()
        text = "setsid -f sleep 76.01; env -i setsid -f sleep 76.01; echo up; sleep 76.01"
        running = asyncio.create_task(sandbox.run(Command(text, 60, recorder)))
        await recorder.arrived(b"up\n")
        other = asyncio.create_task(run(watcher, "sleep 0.5; echo untouched"))
        bubblewrap = bubblewrap_of(os.getpid())
        os.kill(bubblewrap if victim == "bubblewrap" else supervisor_in(bubblewrap), signal.SIGKILL)
        with pytest.raises(SandboxError):
            await running
        assert (await other)[1] == b"untouched\n"
        async with asyncio.timeout(20):
            while not await all_gone(watcher, "76.01"):
                await asyncio.sleep(0.02)
        assert await output(sandbox, "echo again; test -w /etc || echo confined") == "again\nconfined\n"


async def test_a_stopped_supervisor_does_not_keep_a_cell_from_closing(executor: Executor) -> None:
    async with executor.open(SandboxSpec("watcher")) as watcher:
        async with cell(executor) as sandbox:
            await run(sandbox, "setsid -f sleep 76.02")
            await appeared(watcher, "76.02")
            os.kill(supervisor_in(bubblewrap_of(os.getpid())), signal.SIGSTOP)
        async with asyncio.timeout(20):
            while not await all_gone(watcher, "76.02"):
                await asyncio.sleep(0.02)


async def test_a_cell_that_is_never_used_closes(executor: Executor) -> None:
    async with cell(executor):
        pass
    assert not [each for each in below(os.getpid()) if b"bwrap" in cmdline(each)]


def cmdline(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
