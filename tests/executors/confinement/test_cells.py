"""Cells: what opens, what is seen inside, and what becomes of them when something is killed."""

import asyncio
import contextlib
import gc
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.executors.conftest import opened_locally
from tests.executors.recorder import Recorder, all_gone, appeared, output, run

from runner_service.executors.confinement import Confinement
from runner_service.executors.protocol import Command, ConfinementError, Executor, Sandbox, SandboxError, SandboxSpec
from runner_service.executors.supervisor.process_table import children

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


async def test_an_opening_that_failed_before_it_was_needed_is_tried_again(
    executor: Executor, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gc.collect()  # what earlier tests have left would be told here
    caplog.clear()
    (tmp_path / "link").symlink_to("/etc")
    level = Confinement(files="workspace", readable_paths=(str(tmp_path / "link"),))
    async with cell(executor, level) as sandbox:
        while any(each.get_name() == "cell-opening" for each in asyncio.all_tasks()):
            await asyncio.sleep(0.01)
        with pytest.raises(ConfinementError, match="leads through a symlink"):
            await run(sandbox, "true")
    gc.collect()
    assert "never retrieved" not in caplog.text


async def test_the_first_process_of_a_cell_is_under_the_filter_too(executor: Executor) -> None:
    """Before Linux 6.12 a command may trace it, and would have it do what the command may not."""
    async with cell(executor) as sandbox:
        filters = await output(sandbox, "grep -h Seccomp_filters /proc/1/status /proc/self/status")
        assert filters == "Seccomp_filters:\t1\n" * 2


async def test_without_bubblewrap_a_level_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "bwrap" else f"/bin/{name}")
    async with opened_locally(tmp_path) as executor:
        level = Confinement(files="workspace", network="proxy")  # which no restricted thread can hold
        with pytest.raises(ConfinementError, match="bwrap is not on the PATH; install bubblewrap") as refused:
            async with cell(executor, level):
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
    (found,) = [each for each in children(pid) if b"bwrap" in cmdline(each)]
    return found


def below(pid: int) -> list[int]:
    return [deeper for child in children(pid) for deeper in (child, *below(child))]


def supervisor_in(bubblewrap: int) -> int:
    """Returns the supervisor, which is two below: between them is the init of the cell."""
    (init,) = below(bubblewrap)[:1]
    (found,) = [each for each in below(init) if b"main_in_cell" in cmdline(each)]
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
        async with asyncio.timeout(60):
            while not await all_gone(watcher, "76.01"):
                await asyncio.sleep(0.02)
        assert await output(sandbox, "echo again; test -w /etc || echo confined") == "again\nconfined\n"


async def test_a_stopped_supervisor_does_not_keep_a_cell_from_closing(executor: Executor) -> None:
    async with executor.open(SandboxSpec("watcher")) as watcher:
        async with cell(executor) as sandbox:
            await run(sandbox, "setsid -f sleep 76.02")
            await appeared(watcher, "76.02")
            os.kill(supervisor_in(bubblewrap_of(os.getpid())), signal.SIGSTOP)
        async with asyncio.timeout(60):
            while not await all_gone(watcher, "76.02"):
                await asyncio.sleep(0.02)


async def test_a_supervisor_that_its_cell_stops_is_continued_once_then_killed_and_nobody_else_is(
    executor: Executor,
) -> None:
    async with executor.open(SandboxSpec("watcher")) as watcher, cell(executor) as sandbox:
        shared = int(await output(watcher, "echo $PPID"))
        other = asyncio.create_task(run(watcher, "while [ ! -e end ]; do sleep 0.05; done; echo $PPID"))
        # It cannot report its own exit before it is continued.
        assert await output(sandbox, "kill -STOP $PPID; echo continued") == "continued\n"
        with pytest.raises(SandboxError, match="it was stopped again by a signal"):
            await run(sandbox, "kill -STOP $PPID; sleep 76.03")
        assert await output(sandbox, "test -w /etc || echo confined; touch end") == "confined\n"
        assert (await other)[1] == b"%d\n" % shared
        async with asyncio.timeout(60):
            while not await all_gone(watcher, "76.03"):
                await asyncio.sleep(0.02)


async def test_a_cell_that_is_never_used_closes(executor: Executor) -> None:
    async with cell(executor):
        pass
    assert not [each for each in below(os.getpid()) if b"bwrap" in cmdline(each)]


def cmdline(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


STRICT = Confinement(files="strict")


async def test_a_git_directory_that_is_a_link_shows_nothing_of_outside(executor: Executor, root: Path) -> None:
    (root / ".git").symlink_to("/etc")
    async with cell(executor, STRICT) as sandbox:
        assert await output(sandbox, "ls /etc/shadow .git/shadow 2>/dev/null | wc -l") == "0\n"


async def test_git_hooks_that_are_a_link_show_nothing_of_outside_and_cannot_be_replaced(
    executor: Executor, root: Path, tmp_path: Path
) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").touch()
    (root / ".git").mkdir()
    (root / ".git" / "config").write_text("[core]")
    (root / ".git" / "hooks").symlink_to(tmp_path / "outside")
    async with cell(executor, STRICT) as sandbox:
        assert await output(sandbox, "ls .git/hooks/ 2>/dev/null | wc -l; rm .git/hooks || echo kept") == "0\nkept\n"


async def test_a_git_file_that_is_a_pipe_keeps_nobody_waiting(executor: Executor, root: Path) -> None:
    os.mkfifo(root / ".git")
    async with asyncio.timeout(60), cell(executor) as sandbox:
        assert await output(sandbox, "echo open") == "open\n"


async def test_a_linked_worktree_can_commit_and_its_repository_keeps_its_hooks(
    executor: Executor, root: Path, tmp_path: Path
) -> None:
    await asyncio.to_thread(root.rmdir)
    prepare = (
        f"git init -q {tmp_path}/main && cd {tmp_path}/main && git config user.email a@b && git config user.name c "
        f"&& git commit -q --allow-empty -m first && git worktree add -q {root} > /dev/null 2>&1"
    )
    assert await (await asyncio.create_subprocess_shell(prepare)).wait() == 0
    async with cell(executor) as sandbox:
        assert await output(sandbox, "git commit -q --allow-empty -m second && git log --oneline | wc -l") == "2\n"
        hook = f"echo x > {tmp_path}/main/.git/hooks/post-commit || echo held"
        assert await output(sandbox, hook) == "held\n"


async def test_links_in_a_private_directory_lead_no_mount_elsewhere(executor: Executor, tmp_path: Path) -> None:
    """The root lies below /tmp here, so its mount point is in the session's private /tmp, which its commands write."""
    first = tmp_path.relative_to("/tmp").parts[0]
    async with cell(executor, session="s") as sandbox:
        await output(sandbox, f"cd /tmp; mv {first} aside; ln -s ../../../../var/tmp {first}; echo moved")
    async with cell(executor, session="s") as sandbox:
        assert await output(sandbox, f"pwd; [ -L /tmp/{first} ] || echo real") == f"{sandbox.root}\nreal\n"


async def test_a_path_that_leads_through_a_link_is_not_opened(executor: Executor, root: Path) -> None:
    (root / "out").symlink_to("/etc")
    level = Confinement(files="workspace", writable_paths=(str(root / "out"),))
    async with cell(executor, level) as sandbox:
        with pytest.raises(ConfinementError, match="through a symlink to /etc"):
            await run(sandbox, "true")


async def test_what_belongs_to_the_service_is_never_shown(executor: Executor, tmp_path: Path) -> None:
    level = Confinement(files="workspace", readable_paths=(str(tmp_path / "state" / "private"),))
    async with cell(executor, level) as sandbox:
        with pytest.raises(ConfinementError, match="belongs to the service"):
            await run(sandbox, "true")


async def test_a_path_below_what_is_hidden_can_be_shown(executor: Executor, tmp_path: Path) -> None:
    async with executor.open(SandboxSpec("free")) as free:
        await output(free, "mkdir -p ../kept/shown; printf seen > ../kept/shown/file; echo unseen > ../kept/other")
    level = Confinement(
        files="workspace",
        hidden_paths=(str(tmp_path / "kept"),),
        readable_paths=(str(tmp_path / "kept" / "shown"),),
    )
    async with cell(executor, level) as sandbox:
        text = f"cat {tmp_path}/kept/shown/file; cat {tmp_path}/kept/other 2>/dev/null || echo hidden"
        assert await output(sandbox, text) == "seenhidden\n"


SERVICE = """
import asyncio, sys
from pathlib import Path
from runner_service.executors.confinement import Confinement
from runner_service.executors.local.executor import local_executor
from runner_service.executors.protocol import Command, SandboxSpec

class Printing:
    async def write(self, stream, data):
        print(data.decode(), end="", flush=True)

async def main(base):
    async with local_executor(root=base / "root", state_dir=base / "state") as executor:
        async with executor.open(SandboxSpec("e", confinement=Confinement(files="workspace"))) as sandbox:
            text = "setsid -f sleep 76.04; env -i setsid -f sleep 76.04; echo up; sleep 76.04"
            await sandbox.run(Command(text, 600, Printing()))

asyncio.run(main(Path(sys.argv[1])))
"""


async def test_the_death_of_the_service_ends_all_in_its_cells(executor: Executor, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", SERVICE, str(tmp_path / "service"), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout
    async with executor.open(SandboxSpec("watcher")) as watcher, asyncio.timeout(40):
        assert await process.stdout.readline() == b"up\n"
        await appeared(watcher, "76.04", 3)
        process.kill()
        await process.wait()
        while not await all_gone(watcher, "76.04"):
            await asyncio.sleep(0.02)
