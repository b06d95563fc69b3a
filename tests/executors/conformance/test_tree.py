"""The tree: a time-out, a cancel, and the end of the execution each end every descendant, and nobody else."""

import asyncio
import contextlib

import pytest
from tests.executors.recorder import MARK, Recorder, all_gone, appeared, output, run

from runner_service.executors.protocol import Command, Executor, Sandbox, SandboxSpec

TIME_TO_BEGIN_SECONDS = 2.5
"""The time-out of a command that does something first, also on a slow machine."""

DESCENDANTS = {
    "a background job": "sleep {t} &",
    "under nohup": "nohup sleep {t} > /dev/null 2>&1 &",
    "in a session of its own": "setsid sleep {t} &",
    "forked twice": "( ( sleep {t} & ) & )",
    "a daemon without environment": "env -i setsid -f sleep {t}",
    "stopped": "sleep {t} & kill -STOP $!",
    "deaf to SIGTERM": "(trap '' TERM HUP INT; exec sleep {t}) &",
    "a daemon deaf to SIGTERM": "setsid -f sh -c \"trap '' TERM HUP INT; exec sleep {t}\"",
    "below a child": "sh -c 'sh -c \"sleep {t}; true\" & wait' &",
    "with another soft limit": "(ulimit -Sx 7; exec sleep {t}) &",
    "holding no pipe": "sleep {t} > /dev/null 2>&1 < /dev/null &",
}

every_descendant = pytest.mark.parametrize("start", DESCENDANTS.values(), ids=DESCENDANTS.keys())


def marked(start: str, seconds: str) -> str:
    """Returns the script; `seconds` is an unusual number, by which the process is found."""
    return start.format(t=seconds)


@every_descendant
async def test_a_time_out_ends_every_descendant(sandbox: Sandbox, start: str) -> None:
    result, stdout, _ = await run(
        sandbox, marked(start, f"{MARK}.01") + f"\necho partial\nsleep {MARK}.01", timeout=TIME_TO_BEGIN_SECONDS
    )
    assert (result.exit_code, result.timed_out, stdout) == (124, True, b"partial\n")
    assert await all_gone(sandbox, f"{MARK}.01")


@every_descendant
async def test_a_cancel_ends_every_descendant_before_it_goes_on(sandbox: Sandbox, start: str) -> None:
    recorder = Recorder()
    text = marked(start, f"{MARK}.02") + f"\necho started\nsleep {MARK}.02"
    command = asyncio.create_task(sandbox.run(Command(text, 60, recorder)))
    await recorder.arrived(b"started\n")
    command.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await command
    assert command.cancelled()
    assert await all_gone(sandbox, f"{MARK}.02")


@every_descendant
async def test_the_end_of_the_execution_ends_what_its_commands_left(executor: Executor, start: str) -> None:
    async with executor.open(SandboxSpec("later")) as later:
        async with executor.open(SandboxSpec("e")) as sandbox:
            result, _, _ = await run(sandbox, marked(start, f"{MARK}.03"))
            assert result.exit_code == 0
            await appeared(sandbox, f"{MARK}.03")
        assert await all_gone(later, f"{MARK}.03")


async def test_what_obeys_sigterm_may_clean_up(sandbox: Sandbox) -> None:
    text = "trap 'echo cleaned up; exit' TERM; echo ready; while true; do sleep 0.05; done"
    result, stdout, _ = await run(sandbox, text, timeout=TIME_TO_BEGIN_SECONDS)
    assert (result.exit_code, stdout) == (124, b"ready\ncleaned up\n")
    assert result.elapsed < TIME_TO_BEGIN_SECONDS + 10


async def test_what_is_stopped_may_clean_up_too(sandbox: Sandbox) -> None:
    text = f"(trap 'echo cleaned up; exit' TERM; kill -STOP $BASHPID; sleep {MARK}.17) & wait"
    _, stdout, _ = await run(sandbox, text, timeout=TIME_TO_BEGIN_SECONDS)
    assert stdout == b"cleaned up\n"


async def test_the_end_names_what_it_killed(sandbox: Sandbox) -> None:
    result, _, _ = await run(sandbox, f"setsid -f sleep {MARK}.04; sleep {MARK}.04", timeout=TIME_TO_BEGIN_SECONDS)
    assert [each.name for each in result.killed].count("sleep") == 2
    assert all(each.pid > 1 for each in result.killed)


async def test_the_names_of_the_killed_are_at_most_a_hundred(sandbox: Sandbox) -> None:
    result, _, _ = await run(sandbox, f"for i in $(seq 130); do sleep {MARK}.05 & done; wait", timeout=4.0)
    assert len(result.killed) == 100
    assert await all_gone(sandbox, f"{MARK}.05")


async def test_a_command_that_ends_by_itself_has_killed_nothing(sandbox: Sandbox) -> None:
    result, _, _ = await run(sandbox, "sleep 0.1 & wait")
    assert result.killed == ()


async def test_a_command_returns_although_a_child_holds_its_pipe(sandbox: Sandbox) -> None:
    result, stdout, _ = await run(sandbox, f"sleep {MARK}.06 & echo done", timeout=40)
    assert (result.exit_code, stdout) == (0, b"done\n")
    assert result.elapsed < 20
    await appeared(sandbox, f"{MARK}.06")


async def test_a_command_returns_although_a_child_goes_on_writing(sandbox: Sandbox) -> None:
    result, _, _ = await run(sandbox, "yes & sleep 0.1; exit 3", timeout=40)
    assert result.exit_code == 3
    assert result.elapsed < 20


async def test_late_output_reaches_the_sink(sandbox: Sandbox) -> None:
    recorder = Recorder()
    await sandbox.run(Command("(while [ ! -e go ]; do sleep 0.02; done; echo late) & echo now", 30, recorder))
    assert bytes(recorder.stdout) == b"now\n"
    await sandbox.write_text("/go", "")
    await recorder.arrived(b"late\n")


async def test_output_at_the_end_of_the_execution_reaches_the_sink(executor: Executor) -> None:
    recorder = Recorder()
    async with executor.open(SandboxSpec("e")) as sandbox:
        text = "(trap 'echo last words; exit' TERM; echo armed; while true; do sleep 0.05; done) &"
        await sandbox.run(Command(text, 30, recorder))
        await recorder.arrived(b"armed\n")
    assert b"last words\n" in recorder.stdout


async def test_ending_one_command_leaves_the_others_with_all_they_have(sandbox: Sandbox) -> None:
    start = "setsid -f sleep {0}; env -i setsid -f sleep {0}; ( ( sleep {0} & ) & ); echo started; sleep {0}"
    recorder = Recorder()
    other = asyncio.create_task(sandbox.run(Command(start.format(f"{MARK}.07"), 60, recorder)))
    await recorder.arrived(b"started\n")
    await run(sandbox, start.format(f"{MARK}.08"), timeout=TIME_TO_BEGIN_SECONDS)
    assert await all_gone(sandbox, f"{MARK}.08")
    await appeared(sandbox, f"{MARK}.07", 4)
    other.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await other
    assert await all_gone(sandbox, f"{MARK}.07")


async def test_the_end_of_one_execution_leaves_the_others_with_all_they_have(executor: Executor) -> None:
    start = "setsid -f sleep {0}; env -i setsid -f sleep {0}; sleep {0} & ( ( sleep {0} & ) & )"
    async with executor.open(SandboxSpec("one")) as one:
        await run(one, start.format(f"{MARK}.09"))
        async with executor.open(SandboxSpec("two")) as two:
            await run(two, start.format(f"{MARK}.10"))
            await appeared(two, f"{MARK}.10", 4)
        assert await all_gone(one, f"{MARK}.10")
        await appeared(one, f"{MARK}.09", 4)


async def test_what_shed_its_tag_and_its_session_ends_with_the_last_execution(executor: Executor) -> None:
    async with executor.open(SandboxSpec("e")) as sandbox:
        for _ in range(2):
            await run(sandbox, f"sleep {MARK}.18 &")
        await run(sandbox, f"(ulimit -Sx 7; setsid -f sleep {MARK}.11)")
        await appeared(sandbox, f"{MARK}.11")
    async with executor.open(SandboxSpec("later")) as later:
        assert await all_gone(later, f"{MARK}.11")


async def test_what_starts_itself_again_when_told_to_end_is_ended(sandbox: Sandbox) -> None:
    await sandbox.write_text(
        "/again.sh", f"trap 'setsid bash again.sh {MARK}.12 & exit' TERM\necho up\nwhile true; do sleep 0.02; done\n"
    )
    result, _, _ = await run(sandbox, f"bash again.sh {MARK}.12", timeout=TIME_TO_BEGIN_SECONDS)
    assert result.timed_out
    assert len(result.killed) > 1
    assert await all_gone(sandbox, f"{MARK}.12")


async def test_a_tree_that_grows_while_it_is_ended_is_ended(sandbox: Sandbox) -> None:
    await sandbox.write_text(
        f"/grow-{MARK}.19",
        f"trap '' TERM\n[ $1 -gt 5 ] && exec sleep {MARK}.13\n"
        f"bash grow-{MARK}.19 $(($1 + 1)) & bash grow-{MARK}.19 $(($1 + 1)) & wait\n",
    )
    await run(sandbox, f"bash grow-{MARK}.19 0", timeout=0.3)
    assert await all_gone(sandbox, f"grow-{MARK}.19")
    assert await all_gone(sandbox, f"{MARK}.13")


async def test_a_second_cancel_does_not_leave_anything_behind(sandbox: Sandbox) -> None:
    recorder = Recorder()
    text = f"trap '' TERM; echo started; while true; do sleep 0.05; done # {MARK}.14"
    command = asyncio.create_task(sandbox.run(Command(text, 60, recorder)))
    await recorder.arrived(b"started\n")
    for _ in range(3):
        command.cancel()
        await asyncio.sleep(0.02)
    with contextlib.suppress(asyncio.CancelledError):
        await command
    assert command.cancelled()
    assert await all_gone(sandbox, f"{MARK}.14")


async def test_a_sandbox_that_closes_ends_the_command_that_runs(executor: Executor) -> None:
    recorder = Recorder()
    async with executor.open(SandboxSpec("e")) as sandbox:
        command = asyncio.create_task(sandbox.run(Command(f"echo started; sleep {MARK}.15", 60, recorder)))
        await recorder.arrived(b"started\n")
    assert (await command).exit_code == 128 + 15


async def test_a_child_that_ended_by_itself_leaves_no_zombie(sandbox: Sandbox) -> None:
    recorder = Recorder()
    name = f"z{MARK}"  # a zombie has no arguments by which it could be told from those of other tests
    await output(sandbox, f"printf '#!/bin/sh\\necho ended\\n' > {name}; chmod +x {name}")
    text = f"setsid -f ./{name}; setsid -f ./{name}; while [ ! -e go ]; do sleep 0.02; done"
    command = asyncio.create_task(sandbox.run(Command(text, 60, recorder)))
    await recorder.arrived(b"ended\nended\n")
    async with asyncio.timeout(60):
        while await output(sandbox, f"ps -eo comm | grep '^{name}' || true"):
            await asyncio.sleep(0.02)
    assert not command.done()
    await sandbox.write_text("/go", "")
    await command


async def test_a_time_out_of_nothing_ends_at_once(sandbox: Sandbox) -> None:
    result, _, _ = await run(sandbox, f"sleep {MARK}.16", timeout=0)
    assert (result.exit_code, result.timed_out) == (124, True)
