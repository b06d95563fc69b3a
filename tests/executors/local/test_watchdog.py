"""What commands use: too much of it ends the command that is to blame, says so, and touches nobody else."""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path

import pytest
from tests.executors.recorder import Recorder, all_gone, output, run

from runner_service.executors.limit_messages import ExceededLimit
from runner_service.executors.local.executor import LocalExecutor, local_executor
from runner_service.executors.protocol import Command, Sandbox, SandboxSpec
from runner_service.executors.supervisor.watchdog import Quota

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="asks the kernel of Linux")

MEBIBYTE = 1024 * 1024


class Opener:
    """Opens an executor in the test's own directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __call__(self, quota: Quota, *, grace: float = 0.25) -> AbstractAsyncContextManager[LocalExecutor]:
        root, state = self._directory / "root", self._directory / "state"
        return local_executor(root=root, state_dir=state, terminate_grace=grace, quota=quota)


@pytest.fixture
def opened(tmp_path: Path) -> Opener:
    return Opener(tmp_path)


@pytest.fixture
async def limited(opened: Opener) -> AsyncIterator[LocalExecutor]:
    """Fifty processes, two hundred mebibytes. A limit of CPU time would be exceeded first on a slow machine."""
    async with opened(Quota(memory=200 * MEBIBYTE, processes=50)) as executor:
        yield executor


@pytest.fixture
async def sandbox(limited: LocalExecutor) -> AsyncIterator[Sandbox]:
    async with limited.open(SandboxSpec("e")) as opened:
        yield opened


@pytest.fixture
async def timed(opened: Opener) -> AsyncIterator[Sandbox]:
    """0.6 s of CPU time, and after that as long as it takes to clean up."""
    async with opened(Quota(cpu_time=0.6), grace=60) as executor, executor.open(SandboxSpec("e")) as sandbox:
        yield sandbox


def python(text: str, *arguments: str) -> str:
    return f"{sys.executable} -S -c '{text}' {' '.join(arguments)}"


@asynccontextmanager
async def running(sandbox: Sandbox, text: str) -> AsyncIterator[asyncio.Task[object]]:
    """Runs a command that says `up` during the block."""
    recorder = Recorder()
    command = asyncio.create_task(sandbox.run(Command(text, 60, recorder)))
    await recorder.arrived(b"up\n")
    try:
        yield command
    finally:
        command.cancel()
        with suppress(asyncio.CancelledError):
            await command


HOG = 'import time; kept = [b"x" * (1 << 20) for _ in range(int(1e5))]; time.sleep(75.01)'


async def test_a_hog_of_memory_is_ended_and_said_to_be_one(sandbox: Sandbox) -> None:
    async with running(sandbox, "echo up; sleep 75.02") as bystander:
        result, stdout, _ = await run(sandbox, "echo begun; " + python(HOG) + "; true")
        assert (result.exceeded, result.timed_out) == (ExceededLimit("memory", 200 * MEBIBYTE), False)
        assert stdout == b"begun\n"
        assert any(each.name.startswith("python") for each in result.killed)
        assert await all_gone(sandbox, "75.01")
        assert not bystander.done()


async def test_memory_is_counted_over_all_processes(sandbox: Sandbox) -> None:
    keep = python('import sys, time; kept = b"x" * (60 << 20); time.sleep(75.03)')
    result, _, _ = await run(sandbox, " & ".join([keep] * 5) + " & wait")
    assert result.exceeded == ExceededLimit("memory", 200 * MEBIBYTE)


async def test_memory_that_processes_share_counts_once(sandbox: Sandbox) -> None:
    """Each of the six says that it has 60 MiB."""
    begin = 'import os, time\nkept = b"x" * (60 << 20)\n'
    result, _, _ = await run(sandbox, python(begin + "for _ in range(5):\n if not os.fork(): break\ntime.sleep(0.7)"))
    assert (result.exceeded, result.exit_code) == (None, 0)


async def test_a_fork_bomb_is_ended_with_all_its_processes(sandbox: Sandbox) -> None:
    """It would go off by itself after ten seconds, in case that it is not ended."""
    bomb = "bomb() { [ $SECONDS -lt 10 ] && { bomb & bomb & }; wait; }; bomb # 75.04"
    result, _, _ = await run(sandbox, bomb)
    assert (result.exceeded, result.timed_out) == (ExceededLimit("processes", 50), False)
    assert len(result.killed) > 1
    assert await all_gone(sandbox, "75.04")


async def test_a_fork_bomb_that_its_shell_leaves_behind_is_ended_with_a_notice(limited: LocalExecutor) -> None:
    told: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    spec = SandboxSpec("e", notify=lambda code, text: told.put_nowait((code, text)))
    async with limited.open(spec) as sandbox:
        result, _, _ = await run(
            sandbox,
            "bomb() { [ $SECONDS -lt 10 ] && { bomb | bomb & }; }; "
            "(while kill -0 $$; do sleep 0.05; done; bomb) & : 75.05",  # once the end of the shell is known
        )
        code, text = await asyncio.wait_for(told.get(), 60)
        assert (result.exit_code, result.exceeded, code) == (0, None, "LIMIT_EXCEEDED")
        assert "more than 50 processes" in text
        assert await output(sandbox, "echo fine") == "fine\n"


async def test_a_bomb_whose_processes_leave_their_session_is_ended(sandbox: Sandbox) -> None:
    """Slower than the others, so that it can be ended one by one; it would go off by itself after ten seconds."""
    again = "for i in 1 2; do setsid -f bash bomb.sh; done"
    end = int(time.time()) + 10  # SECONDS begins anew in each of them
    await sandbox.write_text("/bomb.sh", f"sleep 0.2\n[ $EPOCHSECONDS -lt {end} ] && {{ {again}; }}\n")
    result, _, _ = await run(sandbox, "for i in $(seq 60); do setsid -f bash bomb.sh; done; sleep 75.06")
    assert result.exceeded == ExceededLimit("processes", 50)
    assert await all_gone(sandbox, "bomb.sh")


async def test_the_supervisor_runs_before_the_commands_that_it_ends(sandbox: Sandbox) -> None:
    """Where it may: it needs CAP_SYS_NICE for that."""
    if (before := os.getpriority(os.PRIO_PROCESS, 0)) != 0 or not _has_sys_nice():
        pytest.skip(f"a niceness of {before}, or no CAP_SYS_NICE")
    of_both = await output(sandbox, "nice; cut -d' ' -f19 /proc/$PPID/stat")
    assert of_both == "0\n-10\n"


def _has_sys_nice() -> bool:
    (effective,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("CapEff")]
    return bool(int(effective.split()[1], 16) >> 23 & 1)


async def test_zombies_count_as_processes(sandbox: Sandbox) -> None:
    zombies = "import os, time\nfor _ in range(60):\n if not os.fork():\n  os._exit(0)\ntime.sleep(75.07)"
    result, _, _ = await run(sandbox, python(zombies))
    assert result.exceeded == ExceededLimit("processes", 50)


async def test_the_command_that_has_most_is_ended_and_no_other(sandbox: Sandbox) -> None:
    async with running(sandbox, "for i in $(seq 18); do sleep 75.08 & done; echo up; wait") as smaller:
        result, _, _ = await run(sandbox, "for i in $(seq 35); do sleep 75.09 & done; wait")
        assert result.exceeded == ExceededLimit("processes", 50)
        assert not smaller.done()
        assert await all_gone(sandbox, "75.09")


async def test_what_one_execution_has_is_not_counted_for_another(limited: LocalExecutor) -> None:
    many = "for i in $(seq 35); do sleep {0} & done; echo up; wait"
    async with (
        limited.open(SandboxSpec("one")) as one,
        limited.open(SandboxSpec("two")) as two,
        running(one, many.format("75.10")) as first,
        running(two, many.format("75.11")) as second,
    ):
        await asyncio.sleep(0.35)  # three looks
        assert not first.done()
        assert not second.done()


async def test_a_loop_without_end_is_ended_when_its_cpu_time_is_spent(timed: Sandbox) -> None:
    result, stdout, _ = await run(timed, "trap 'echo cleaned up; exit' TERM; while true; do :; done")
    assert (result.exceeded, stdout) == (ExceededLimit("cpu_time", 0.6), b"cleaned up\n")


async def test_the_cpu_time_of_children_that_live_counts(timed: Sandbox) -> None:
    result, _, _ = await run(timed, "(while true; do :; done) & wait")
    assert result.exceeded == ExceededLimit("cpu_time", 0.6)


async def test_the_cpu_time_of_children_that_have_ended_counts(timed: Sandbox) -> None:
    spin = python("import time\nwhile time.process_time() < 0.2:\n pass")
    awaited = f"for i in $(seq 30); do {spin}; done"
    left = f"for i in $(seq 30); do setsid -f {spin}; sleep 0.3; done"
    for text in (awaited, left):
        result, _, _ = await run(timed, text)
        assert result.exceeded == ExceededLimit("cpu_time", 0.6), text


async def test_what_stays_within_the_limits_is_left_alone(opened: Opener) -> None:
    quota = Quota(memory=200 * MEBIBYTE, processes=50, cpu_time=5)
    async with opened(quota) as executor, executor.open(SandboxSpec("e")) as sandbox:
        result, stdout, _ = await run(sandbox, "for i in $(seq 20); do sleep 0.4 & done; wait; echo done")
        assert (result.exit_code, result.exceeded, stdout) == (0, None, b"done\n")


async def test_without_limits_nobody_looks(opened: Opener) -> None:
    async with opened(Quota()) as executor, executor.open(SandboxSpec("e")) as sandbox:
        assert "watchdog" not in executor.process_control
        result, _, _ = await run(sandbox, "for i in $(seq 60); do sleep 0.3 & done; wait")
        assert result.exceeded is None


async def test_the_account_of_the_sandbox_says_that_limits_are_in_force(limited: LocalExecutor) -> None:
    assert limited.process_control.endswith("+watchdog")


async def test_a_command_goes_before_the_service_when_the_machine_has_no_memory(sandbox: Sandbox) -> None:
    own = int(await asyncio.to_thread(Path("/proc/self/oom_score_adj").read_text))
    first, second = (await output(sandbox, "cat /proc/self/oom_score_adj /proc/$PPID/oom_score_adj")).split()
    assert (int(first), int(second)) == (min(own + 500, 1000), own)


async def test_who_uses_too_much_while_asked_to_end_is_ended_at_once(opened: Opener) -> None:
    async with opened(Quota(processes=50), grace=80) as executor, executor.open(SandboxSpec("e")) as sandbox:
        grow = 'trap "" TERM; for i in $(seq 60); do sleep 75.12 & done; wait'
        text = f"trap '{grow}' TERM; while true; do sleep 0.05; done"
        result, _, _ = await run(sandbox, text, timeout=1.0)
        assert (result.timed_out, result.exceeded) == (True, None)
        assert result.elapsed < 60
        assert await all_gone(sandbox, "75.12")
