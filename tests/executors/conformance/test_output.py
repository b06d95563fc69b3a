"""Output: every byte, in order, as it comes, in bounded memory."""

import asyncio

import pytest
from tests.executors.recorder import MARK, Counter, Recorder, all_gone, output, run

from runner_service.executors.protocol import Command, Sandbox, Stream


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        (r"printf 'a\000b'", b"a\0b"),
        (r"printf 'a\377\376b'", b"a\xff\xfeb"),
        (r"printf 'no newline'", b"no newline"),
        (r"printf '10%%\r20%%\r'", b"10%\r20%\r"),
        (r"printf '\033[31mred\033[0m\a\b'", b"\033[31mred\033[0m\a\b"),
        ("true", b""),
    ],
    ids=["NUL", "not UTF-8", "no final newline", "carriage returns", "control characters", "nothing"],
)
async def test_bytes_arrive_as_they_were_written(sandbox: Sandbox, script: str, expected: bytes) -> None:
    assert (await run(sandbox, script))[1] == expected


async def test_all_byte_values_survive(sandbox: Sandbox) -> None:
    script = "python3 -c 'import os; os.write(1, bytes(range(256)) * 1000)'"
    assert (await run(sandbox, script))[1] == bytes(range(256)) * 1000


async def test_stdout_and_stderr_are_told_apart(sandbox: Sandbox) -> None:
    _, stdout, stderr = await run(sandbox, "echo out; echo err >&2; echo out again; echo err again >&2")
    assert (stdout, stderr) == (b"out\nout again\n", b"err\nerr again\n")


async def test_ten_megabytes_in_one_line_arrive(sandbox: Sandbox) -> None:
    _, stdout, _ = await run(sandbox, "head -c 10000000 /dev/zero | tr '\\0' x")
    assert stdout == b"x" * 10_000_000


async def test_a_hundred_thousand_lines_arrive_in_order(sandbox: Sandbox) -> None:
    _, stdout, _ = await run(sandbox, "seq 100000")
    assert stdout == b"".join(b"%d\n" % number for number in range(1, 100_001))


async def test_two_hundred_megabytes_arrive_completely(sandbox: Sandbox) -> None:
    counter = Counter()
    result = await sandbox.run(Command("yes 1234567 | head -c 200000000", 200, counter))
    assert (result.exit_code, counter.bytes, counter.newlines) == (0, 200_000_000, 25_000_000)


async def test_pieces_are_never_empty_and_at_most_256_kib(sandbox: Sandbox) -> None:
    recorder = Recorder()
    await sandbox.run(Command("head -c 5000000 /dev/zero; head -c 5000000 /dev/zero >&2", 30, recorder))
    assert sum(recorder.pieces) == 10_000_000
    assert 0 < min(recorder.pieces) <= max(recorder.pieces) <= 256 * 1024


async def test_output_is_live(sandbox: Sandbox) -> None:
    recorder = Recorder()
    command = asyncio.create_task(
        sandbox.run(Command("echo first; while [ ! -e go ]; do sleep 0.02; done", 30, recorder))
    )
    await recorder.arrived(b"first\n")
    assert not command.done()
    await sandbox.write_text("/go", "")
    assert (await command).exit_code == 0


async def test_a_child_python_is_live_too(sandbox: Sandbox) -> None:
    recorder = Recorder()
    script = 'python3 -c \'import os, time\nprint("first")\nwhile not os.path.exists("go"): time.sleep(0.02)\''
    command = asyncio.create_task(sandbox.run(Command(script, 30, recorder)))
    await recorder.arrived(b"first\n")
    await sandbox.write_text("/go", "")
    assert (await command).exit_code == 0


class Gate:
    """A sink that takes nothing until it is opened."""

    def __init__(self) -> None:
        self.opened = asyncio.Event()
        self.entered = asyncio.Event()
        self.bytes = 0

    async def write(self, stream: Stream, data: bytes) -> None:
        self.entered.set()
        await self.opened.wait()
        self.bytes += len(data)


async def test_a_sink_that_waits_slows_the_command_and_loses_nothing(sandbox: Sandbox) -> None:
    gate = Gate()
    command = asyncio.create_task(sandbox.run(Command("head -c 20000000 /dev/zero; echo > written", 60, gate)))
    await gate.entered.wait()
    assert await output(sandbox, "sleep 0.3; test -e written || echo held back") == "held back\n"
    gate.opened.set()
    assert (await command).exit_code == 0
    assert gate.bytes == 20_000_000


async def test_a_sink_that_waits_for_one_command_slows_no_other(sandbox: Sandbox) -> None:
    gate = Gate()
    held = asyncio.create_task(sandbox.run(Command("head -c 20000000 /dev/zero", 60, gate)))
    await gate.entered.wait()
    assert len((await run(sandbox, "head -c 3000000 /dev/zero"))[1]) == 3_000_000
    gate.opened.set()
    assert (await held).exit_code == 0


async def test_a_time_out_comes_although_the_sink_waits(sandbox: Sandbox) -> None:
    gate = Gate()
    command = asyncio.create_task(sandbox.run(Command(f"yes {MARK}.20; sleep 7.1", 3.0, gate)))
    await gate.entered.wait()
    while not await all_gone(sandbox, f"{MARK}.20"):
        await asyncio.sleep(0.05)
    gate.opened.set()
    assert (await command).timed_out


class Broken:
    async def write(self, stream: Stream, data: bytes) -> None:
        raise OSError("the log cannot be written")


async def test_a_sink_that_fails_ends_the_command_and_its_error_goes_on(sandbox: Sandbox) -> None:
    with pytest.raises(OSError, match="the log cannot be written"):
        await sandbox.run(Command("echo something; sleep 60", 60, Broken()))


async def test_a_command_that_closes_its_output_goes_on(sandbox: Sandbox) -> None:
    result, stdout, stderr = await run(sandbox, "echo before; exec >&- 2>&-; sleep 0.2; exit 4")
    assert (result.exit_code, stdout, stderr) == (4, b"before\n", b"")


async def test_output_written_just_before_the_end_is_never_lost(sandbox: Sandbox) -> None:
    async def one() -> None:
        _, stdout, stderr = await run(sandbox, "head -c 300000 /dev/zero; printf end >&2")
        assert (len(stdout), stderr) == (300_000, b"end")

    for _ in range(10):
        await asyncio.gather(*(one() for _ in range(4)))


class Slow:
    """A sink that takes a moment for each piece."""

    def __init__(self) -> None:
        self.bytes = 0

    async def write(self, stream: Stream, data: bytes) -> None:
        await asyncio.sleep(0.01)
        self.bytes += len(data)


async def test_a_command_returns_when_a_slow_sink_has_everything(sandbox: Sandbox) -> None:
    slow = Slow()
    result = await sandbox.run(Command("head -c 3000000 /dev/zero; sleep 71.20 &", 60, slow))
    assert (result.exit_code, slow.bytes) == (0, 3_000_000)
