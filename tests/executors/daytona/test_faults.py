"""What Daytona does badly, and that nobody notices: output exact, no command twice, a cancel that kills, no hang."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.emulator import Cloud, Fault
from tests.emulator.processes import programs_of
from tests.executors.recorder import Recorder, all_gone, output, run

from runner_service.executors.daytona.executor import DaytonaExecutor
from runner_service.executors.protocol import Command, FileError, Sandbox, SandboxSpec, Stream

EXEC = r"POST .*/process/execute"
LOG_KNOBS: list[dict[str, Any]] = [{"eof_lag": 30.0}, {"socket_cut_after": 10}, {"socket_patience": 0.0}]
ANY_CALL = pytest.mark.parametrize("how", ["429", "502", "drop", "lose", "replay", "404", "409"])


@pytest.fixture
async def sandbox(executor: DaytonaExecutor) -> AsyncIterator[Sandbox]:
    async with executor.open(SandboxSpec("e", session_id="s")) as opened:
        await output(opened, "true")
        yield opened


@pytest.mark.parametrize("knobs", LOG_KNOBS, ids=" ".join)
async def test_how_the_clouds_own_logs_behave_does_not_matter(
    cloud: Cloud, sandbox: Sandbox, knobs: dict[str, Any]
) -> None:
    for name, value in knobs.items():
        setattr(cloud.faults, name, value)
    result, stdout, stderr = await run(sandbox, "seq 20000; printf 'e\\0\\377' >&2; exit 7")
    assert (result.exit_code, stdout, stderr) == (7, b"".join(b"%d\n" % n for n in range(1, 20001)), b"e\0\xff")


@ANY_CALL
async def test_a_command_runs_once_and_its_output_is_exact(cloud: Cloud, sandbox: Sandbox, how: str) -> None:
    faults = [cloud.faults.add(EXEC, how, 2, skip=skip) for skip in (0, 2)]  # type: ignore[arg-type]  # of its kind
    result, stdout, stderr = await run(
        sandbox, "echo once >> effects; seq 20000; sleep 0.3; printf 'e\\0\\377' >&2; exit 7"
    )
    assert (result.exit_code, stdout, stderr) == (7, b"".join(b"%d\n" % n for n in range(1, 20001)), b"e\0\xff")
    assert sum(fault.seen for fault in faults) >= 2
    assert await output(sandbox, "cat effects") == "once\n"


@ANY_CALL
async def test_a_file_operation_is_done_once(cloud: Cloud, sandbox: Sandbox, how: str) -> None:
    await sandbox.write_text("/a", "x")
    fault = cloud.faults.add(EXEC, how, 2)  # type: ignore[arg-type]  # of its kind
    assert await sandbox.edit_text("/a", "x", "xx") == 1
    assert fault.seen
    assert await output(sandbox, "cat a") == "xx"


async def test_a_large_transfer_survives_what_breaks_off(cloud: Cloud, sandbox: Sandbox) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for number in range(20):
            yield bytes([number]) * 1_000_000

    cloud.faults.add(r"POST .*/bulk-upload", "502")
    cloud.faults.add(r"POST .*/bulk-upload", "lose")
    await sandbox.upload("/big", pieces())
    fault = cloud.faults.add(r"POST .*/bulk-download", "cut", 2)
    data = b"".join([piece async for piece in sandbox.download("/big")])
    assert fault.seen == 2
    assert data == b"".join(bytes([number]) * 1_000_000 for number in range(20))
    assert await output(sandbox, "ls $TMPDIR/*/transfers | wc -l") == "0\n"


async def test_a_cancel_kills_although_the_calls_fail(cloud: Cloud, sandbox: Sandbox) -> None:
    recorder = Recorder()
    command = asyncio.create_task(
        sandbox.run(Command("echo started; setsid -f sleep 82.01; sleep 82.01", 60, recorder))
    )
    await recorder.arrived(b"started\n")
    cloud.faults.add(EXEC, "502", 2)
    cloud.faults.add(EXEC, "lose", 1)
    command.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await command
    assert command.cancelled()
    assert await all_gone(sandbox, "82.01")


async def test_a_time_out_comes_although_nobody_can_ask(cloud: Cloud, sandbox: Sandbox) -> None:
    command = asyncio.create_task(run(sandbox, "echo partial; sleep 82.02", timeout=3.0))
    cloud.faults.add(EXEC, "502", 4, skip=1)
    result, stdout, _ = await command
    assert (result.exit_code, result.timed_out, stdout) == (124, True, b"partial\n")
    assert await all_gone(sandbox, "82.02")


async def test_a_call_that_is_never_answered_is_given_up(cloud: Cloud, sandbox: Sandbox) -> None:
    fault = cloud.faults.add(EXEC, "hang")
    async with asyncio.timeout(30):
        assert await output(sandbox, "echo answered") == "answered\n"
    assert fault.seen == 1


async def test_a_rate_limit_is_waited_for_as_long_as_it_asks(cloud: Cloud, executor: DaytonaExecutor) -> None:
    async with executor.open(SandboxSpec("e", session_id="s")) as sandbox:
        cloud.faults.add(EXEC, "429", retry_after=1.0)
        before = asyncio.get_running_loop().time()
        await sandbox.write_text("/later", "")
        assert asyncio.get_running_loop().time() - before >= 1.0


class Slow:
    """A sink that takes its time."""

    def __init__(self) -> None:
        self.bytes = 0

    async def write(self, stream: Stream, data: bytes) -> None:
        await asyncio.sleep(0.3)
        self.bytes += len(data)


async def test_a_stalled_sink_loses_nothing(cloud: Cloud, sandbox: Sandbox) -> None:
    cloud.faults.plan.append(Fault(EXEC, "502", times=3, skip=2))
    slow = Slow()
    result = await sandbox.run(Command("head -c 3000000 /dev/zero", 60, slow))
    assert (result.exit_code, slow.bytes) == (0, 3_000_000)


async def test_a_session_that_is_stopped_in_mid_run_says_so_and_goes_on(
    cloud: Cloud, executor: DaytonaExecutor
) -> None:
    notices: list[str] = []
    spec = SandboxSpec("e", session_id="s", notify=lambda code, text: notices.append(code))
    async with executor.open(spec) as sandbox:
        recorder = Recorder()
        text = "echo once >> effects; echo started; sleep 82.03"
        command = asyncio.create_task(sandbox.run(Command(text, 60, recorder, name="call-1")))
        await recorder.arrived(b"started\n")
        (remote,) = cloud.sandboxes.values()
        await cloud.stop(remote)
        result = await command
        assert "how far it came is not known" in result.lost
        assert notices[-1] == "SANDBOX_RESTARTED"
        assert await output(sandbox, "cat effects") == "once\n"


def attendants(cloud: Cloud) -> list[int]:
    """Returns the processes of attendants in the only sandbox."""
    (remote,) = cloud.sandboxes.values()
    programs = programs_of(remote.id).items()
    return [pid for pid, program in programs if b"attendant.server import main" in program]


async def test_a_command_whose_attendant_is_told_to_stop_is_unknown_and_the_sandbox_goes_on(
    cloud: Cloud, sandbox: Sandbox
) -> None:
    recorder = Recorder()
    text = "echo once >> effects; echo started; sleep 82.05"
    command = asyncio.create_task(sandbox.run(Command(text, 60, recorder, name="call-1")))
    await recorder.arrived(b"started\n")
    (attendant,) = await asyncio.to_thread(attendants, cloud)
    os.kill(attendant, signal.SIGTERM)  # as an orderly stop of the sandbox begins

    assert "how far it came is not known" in (await command).lost
    assert await output(sandbox, "cat effects") == "once\n"


async def test_the_label_of_a_command_is_not_taken_for_another_run(sandbox: Sandbox) -> None:
    first = await sandbox.run(Command("echo once >> effects; exit 3", 10, Recorder(), name="call-1"))
    again = Recorder()
    second = await sandbox.resume(Command("", 10, again, name="call-1"))
    assert (first.exit_code, second.exit_code) == (3, 3)
    assert (await sandbox.resume(Command("", 10, again, name="call-2"))).lost


async def test_everything_at_once_at_random(cloud: Cloud, sandbox: Sandbox) -> None:
    async def one(number: int) -> None:
        text = f"echo {number} >> effects; seq {number}; echo err {number} >&2; exit {number}"
        result, stdout, stderr = await run(sandbox, text)
        assert (result.exit_code, stderr) == (number, b"err %d\n" % number)
        assert stdout == b"".join(b"%d\n" % n for n in range(1, number + 1))

    cloud.faults.error_rate = 0.2
    await asyncio.gather(*(one(number) for number in range(1, 13)))
    cloud.faults.error_rate = 0.0
    assert sorted(map(int, (await output(sandbox, "cat effects")).split())) == list(range(1, 13))


@pytest.mark.parametrize(
    ("knob", "code", "text"),
    [
        ("full_disk", "no_space", "disk of the sandbox is full"),
        ("denied", "permission_denied", "may not write to its directory for temporary files"),
    ],
)
async def test_an_upload_that_the_toolbox_cannot_write_is_a_file_error_that_says_why(
    cloud: Cloud, sandbox: Sandbox, knob: str, code: str, text: str
) -> None:
    async def much() -> AsyncIterator[bytes]:
        yield b"x" * 3_000_000

    setattr(cloud.faults, knob, "transfers")
    with pytest.raises(FileError) as refused:
        await sandbox.upload("/big", much())
    assert refused.value.code == code
    assert text in str(refused.value)
    assert await output(sandbox, "echo goes on; ls") == "goes on\n"
