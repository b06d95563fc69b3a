"""What only the local executor promises."""

import asyncio
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest
from tests.descriptors import limit_with_room_for
from tests.executors.recorder import Counter, Recorder, output, run

from runner_service.executors.local.deadline import Deadline
from runner_service.executors.local.executor import local_executor
from runner_service.executors.local.paths import Root
from runner_service.executors.local.reading import list_directory
from runner_service.executors.protocol import Command, Executor, FileError, Sandbox, SandboxError, SandboxSpec, Stream


async def test_the_root_and_the_state_are_made(tmp_path: Path) -> None:
    root, state = tmp_path / "a" / "root", tmp_path / "b" / "state"
    async with local_executor(root=root, state_dir=state) as executor, executor.open(SandboxSpec("e")) as sandbox:
        assert sandbox.root == str(root.resolve())  # a test
        assert executor.sandbox_type == "filesystem"
    assert (await asyncio.to_thread(state.stat)).st_mode == stat.S_IFDIR | 0o700


async def test_a_root_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").touch()
    with pytest.raises(SandboxError, match="cannot be used"):
        async with local_executor(root=tmp_path / "root", state_dir=tmp_path / "state"):
            pass


async def test_a_root_that_is_missing_is_made_for_the_first_sandbox_and_not_before(tmp_path: Path) -> None:
    root = tmp_path / "not" / "there"
    async with local_executor(root=root, state_dir=tmp_path / "state") as executor:
        assert not await asyncio.to_thread(root.exists)
        async with executor.open(SandboxSpec("e")):
            assert await asyncio.to_thread(root.is_dir)


async def test_a_shared_root_that_was_removed_is_made_again_for_the_next_sandbox(tmp_path: Path) -> None:
    root = tmp_path / "root"
    async with local_executor(root=root, state_dir=tmp_path / "state") as executor:
        for _ in range(2):
            async with executor.open(SandboxSpec("e")) as sandbox:
                assert await output(sandbox, "pwd") == f"{root}\n"
            await asyncio.to_thread(shutil.rmtree, root)


async def test_a_root_behind_a_symlink_is_shown_by_its_real_path(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    opened = local_executor(root=tmp_path / "link", state_dir=tmp_path / "state")
    async with opened as executor, executor.open(SandboxSpec("e")) as sandbox:
        assert sandbox.root == str(await asyncio.to_thread((tmp_path / "real").resolve))


async def test_a_shared_root_is_the_same_for_all(executor: Executor) -> None:
    async with executor.open(SandboxSpec("e", "s")) as one, executor.open(SandboxSpec("f", "t")) as two:
        await one.write_text("/a", "shared")
        assert await output(two, "cat a") == "shared"


@pytest.mark.parametrize(
    "session", ["plain-session_1.0", "../up", "/etc", "with space/ünï", ".", "..", ".hidden", "x" * 300]
)
async def test_each_session_has_its_own_directory_inside_the_root(tmp_path: Path, session: str) -> None:
    root = tmp_path / "root"
    async with local_executor(root=root, state_dir=tmp_path / "state", scope="session") as executor:
        async with executor.open(SandboxSpec("e", session)) as one, executor.open(SandboxSpec("f", "other")) as two:
            assert Path(one.root).parent == Path(two.root).parent == root.resolve()
            assert one.root != two.root
        async with executor.open(SandboxSpec("g", session)) as again:
            assert again.root == one.root


async def test_without_a_session_the_execution_has_a_directory(tmp_path: Path) -> None:
    opened = local_executor(root=tmp_path / "root", state_dir=tmp_path / "state", scope="session")
    async with opened as executor, executor.open(SandboxSpec("e-1")) as sandbox:
        assert Path(sandbox.root).name == "+e-1"


async def test_two_hundred_megabytes_cost_less_than_twenty_of_memory(sandbox: Sandbox) -> None:
    await run(sandbox, "head -c 1000000 /dev/zero")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counter = Counter()
    await sandbox.run(Command("head -c 200000000 /dev/zero", 60, counter))
    assert counter.bytes == 200_000_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 20_000


class BlockingSink:
    """A sink that accepts nothing until it is released."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.released = asyncio.Event()

    async def write(self, stream: Stream, data: bytes) -> None:
        self.entered.set()
        await self.released.wait()


async def test_a_sink_that_waits_costs_no_cpu_time(sandbox: Sandbox) -> None:
    held = BlockingSink()
    command = asyncio.create_task(sandbox.run(Command("head -c 5000000 /dev/zero", 60, held)))
    await held.entered.wait()
    before = time.process_time()
    await asyncio.sleep(0.4)
    assert time.process_time() - before < 0.2
    held.released.set()
    await command


def descriptors() -> set[str]:
    return {each.name for each in Path("/proc/self/fd").iterdir()}


async def endless() -> AsyncIterator[bytes]:
    while True:
        yield bytes(100_000)


async def test_commands_leave_no_descriptor_open(sandbox: Sandbox) -> None:
    async def some() -> None:
        await run(sandbox, "echo x; echo y >&2")
        await run(sandbox, "sleep 5", timeout=0.05)
        await run(sandbox, "no\0thing")
        await sandbox.run(Command("exit 1", 30, Recorder(), stdin=endless()))
        await sandbox.run(Command("no\0thing", 30, Recorder(), stdin=endless()))
        cancelled = asyncio.create_task(sandbox.run(Command("echo x; sleep 5", 30, Recorder(), stdin=endless())))
        await asyncio.sleep(0.02)
        cancelled.cancel()
        await asyncio.wait([cancelled])

    await some()
    before = descriptors()
    for _ in range(5):
        await some()
    async with asyncio.timeout(60):
        while not descriptors() <= before:  # those of what was cancelled are closed a little later
            await asyncio.sleep(0.02)


async def test_commands_of_executions_in_turns_have_each_their_own_variables(executor: Executor) -> None:
    values = ["first", "second", ""]
    async with AsyncExitStack() as opened:
        specs = [SandboxSpec(f"e{value}", environment={"GIVEN": value} if value else {}) for value in values]
        sandboxes = [await opened.enter_async_context(executor.open(spec)) for spec in specs]
        for each in (0, 0, 1, 1, 2, 2, 0, 2, 1, 0):
            assert await output(sandboxes[each], 'printf %s "${GIVEN-}"') == values[each]


async def test_without_a_free_descriptor_a_command_is_a_result(sandbox: Sandbox) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = limit_with_room_for(2)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
        results = await asyncio.gather(
            *(sandbox.run(Command("true", 10, Recorder(), stdin=endless())) for _ in range(4))
        )
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert any(result.start_error for result in results)
    assert (await run(sandbox, "echo fine again"))[1] == b"fine again\n"


STARTS = {"os.fork", "os.forkpty", "os.posix_spawn", "subprocess.Popen"}
"""Events of auditing: a start of a process from this one takes milliseconds."""


async def test_no_process_is_started_on_the_loop(sandbox: Sandbox) -> None:
    loop_thread = threading.get_ident()
    started: list[str] = []
    is_watched = True

    def watch(event: str, _: object) -> None:
        if is_watched and event in STARTS and threading.get_ident() == loop_thread:
            started.append(event)

    sys.addaudithook(watch)  # it cannot be removed
    await asyncio.gather(*(sandbox.run(Command("true", 60, Recorder())) for _ in range(64)))
    assert started == []
    subprocess.run(["true"], check=True)  # noqa: ASYNC221  # one that is seen
    is_watched = False
    assert started


SEARCHES = [
    ("needle", "/", "", 1000),
    ("needle", "src", "", 1000),
    ("needle", "/", "*.txt", 1000),
    ("x needle\r", "/", "", 1000),
    ("needle", "/", "", 3),
]


async def test_grep_gives_the_same_with_and_without_ripgrep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = r"""
        mkdir -p src/a .git .hidden "sp ace"; printf 'x needle\r\nneedle' > src/a/dos.txt; echo needle > .git/x
        echo needle > .hidden/y; echo needle > "sp ace/ü.txt"; printf 'needle\000' > bin; echo src > .gitignore
        printf '\357\273\277needle\n' > bom; printf '\377\376n\000e\000' > utf16; printf '\377needle\n' > latin
        ln -s src link; echo needle > $(printf 'n\377'); echo NEEDLE > upper; echo needle > z-last; mkfifo fifo
        (seq 200000; echo needle; printf '\000') > late.bin; echo src/ > .ignore; echo '*.txt' > .rgignore
        chmod 000 upper"""
    found = []
    ripgrep = Path(sys.executable).with_name("rg")
    monkeypatch.setenv("PATH", f"{ripgrep.parent}:{os.environ['PATH']}")
    assert shutil.which("rg") == str(ripgrep)
    for name in ("with", "without"):
        if name == "without":
            monkeypatch.setenv("PATH", "/usr/bin:/bin")
            monkeypatch.setattr(shutil, "which", lambda program: None if program == "rg" else f"/bin/{program}")
        opened = local_executor(root=tmp_path / "root", state_dir=tmp_path / name)
        async with opened as executor, executor.open(SandboxSpec("e")) as sandbox:
            if name == "with":
                await output(sandbox, prepare)
            found.append([await search(sandbox, *each) for each in SEARCHES])
            found[-1].append((await sandbox.grep("needle", include_ignored=True)).items)
    assert found[0] == found[1]
    assert len(found[0][0]) == 5
    assert len(found[0][-1]) == 8


async def search(sandbox: Sandbox, pattern: str, path: str, include: str, limit: int) -> Sequence[object] | str:
    try:
        return (await sandbox.grep(pattern, path, include=include, limit=limit)).items
    except FileError as refused:
        return refused.code


async def test_a_machine_without_bash_uses_sh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    only_sh = {"sh": shutil.which("sh")}
    monkeypatch.setattr(shutil, "which", only_sh.get)
    opened = local_executor(root=tmp_path / "root", state_dir=tmp_path / "state")
    async with opened as executor, executor.open(SandboxSpec("e")) as sandbox:
        assert await output(sandbox, "echo ${BASH_VERSION-plain}") == "plain\n"
        assert (await run(sandbox, "exit 3; " + "#" * 200_000))[0].exit_code == 3


async def test_a_machine_without_any_shell_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(SandboxError, match="neither bash nor sh"):
        async with local_executor(root=tmp_path / "root", state_dir=tmp_path / "state"):
            pass


ORDINARY_USER = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
CHECK = "import subprocess, sys; sys.exit(sys.version_info < (3, 11) or subprocess.call([sys.executable, '-c', '']))"


def python_for_all() -> str:
    """Returns a Python that an ordinary user can run; nothing when there is none, or we are not root."""
    for python in (sys.executable, "/usr/bin/python3"):
        with suppress(FileNotFoundError):
            if subprocess.run([*ORDINARY_USER, python, "-c", CHECK], check=False, capture_output=True).returncode == 0:
                return python
    return ""


@pytest.mark.skipif(not python_for_all(), reason="needs root, and a Python that all users can run")
async def test_everything_works_without_root(tmp_path: Path) -> None:
    """All of it in a process of an ordinary user: tags are lowered limits, which need no right.

    To its commands the supervisor is closed.
    """
    directory = Path(tempfile.mkdtemp(prefix="ordinary-user-"))
    try:
        os.chown(directory, 65534, 65534)
        program = [*ORDINARY_USER, python_for_all(), str(Path(__file__).with_name("ordinary_user.py")), str(directory)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3] / "src")}
        process = await asyncio.create_subprocess_exec(*program, stdout=asyncio.subprocess.PIPE, env=environment)
        said, _ = await asyncio.wait_for(process.communicate(), 60)
    finally:
        shutil.rmtree(directory)
    assert said.decode().splitlines() == ["subreaper+tag+guardian", "124 True", "0 left", "closed", "500"]


def test_a_directory_of_too_many_entries_is_not_built_in_memory(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / name).touch()
    root = Root(str(tmp_path.resolve()))
    assert len(list_directory(root, "/", Deadline(), limit=3)) == 3
    with pytest.raises(FileError, match="more than 2 entries; use glob"):
        list_directory(root, "/", Deadline(), limit=2)


async def test_an_execution_without_a_session_shares_no_directory_with_a_session_of_its_name(tmp_path: Path) -> None:
    async with local_executor(root=tmp_path / "root", state_dir=tmp_path / "state", scope="session") as executor:
        async with executor.open(SandboxSpec("any", session_id="alice")) as sandbox:
            of_the_session = sandbox.root
        async with executor.open(SandboxSpec("alice")) as sandbox:
            assert sandbox.root != of_the_session
