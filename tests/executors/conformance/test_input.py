"""Input: every byte, in order, as the command takes it, and no longer than the command."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Sequence

import pytest
from tests.executors.recorder import MARK, Recorder, all_gone, appeared

from runner_service.executors.protocol import Command, CommandResult, Sandbox


async def fed(sandbox: Sandbox, text: str, stdin: AsyncIterator[bytes]) -> tuple[CommandResult, bytes]:
    """Runs a command with `stdin`; returns its result and what it wrote to stdout."""
    recorder = Recorder()
    result = await sandbox.run(Command(text, 60, recorder, stdin=stdin))
    return result, bytes(recorder.stdout)


async def items(*given: bytes) -> AsyncIterator[bytes]:
    for item in given:
        yield item


class Source:
    """Gives `first`, then waits for ever; knows how many items were asked for, and whether it was closed.

    `begun` is set once something was asked for; what is ended before that closes nothing.
    """

    def __init__(self, first: Sequence[bytes] = ()) -> None:
        self.asked = 0
        self.begun = asyncio.Event()
        self.is_closed = False
        self._first = first

    async def stdin(self) -> AsyncIterator[bytes]:
        self.begun.set()
        try:
            for item in self._first:
                self.asked += 1
                yield item
            await asyncio.Event().wait()
        finally:
            self.is_closed = True


@pytest.mark.parametrize(
    "given",
    [(b"a\0b",), (b"\xff\xfe",), (b"no newline",), (b"one\n", b"", b"two\n"), ()],
    ids=["NUL", "not UTF-8", "no final newline", "an empty item", "nothing"],
)
async def test_input_arrives_as_it_was_given_and_then_ends(sandbox: Sandbox, given: Sequence[bytes]) -> None:
    result, stdout = await fed(sandbox, "cat; read line || echo at its end", items(*given))
    assert (result.exit_code, stdout) == (0, b"".join(given) + b"at its end\n")


async def test_ten_megabytes_of_all_byte_values_arrive(sandbox: Sandbox) -> None:
    given = [bytes(range(256)) * 2000 for _ in range(19)] + [bytes(272_000)]
    result, stdout = await fed(sandbox, "sha256sum", items(*given))
    assert sum(map(len, given)) == 10_000_000
    assert (result.exit_code, stdout.split()[0]) == (0, hashlib.sha256(b"".join(given)).hexdigest().encode())


async def test_one_item_of_ten_megabytes_arrives(sandbox: Sandbox) -> None:
    _, stdout = await fed(sandbox, "wc -c", items(bytes(10_000_000)))
    assert stdout.split() == [b"10000000"]


async def test_a_thousand_small_items_arrive_in_order(sandbox: Sandbox) -> None:
    given = [b"%d\n" % number for number in range(1000)]
    assert (await fed(sandbox, "cat", items(*given)))[1] == b"".join(given)


async def test_a_command_can_be_talked_to(sandbox: Sandbox) -> None:
    recorder = Recorder()

    async def questions() -> AsyncIterator[bytes]:
        for word in (b"first", b"second", b"third"):
            yield word + b"\n"
            await recorder.arrived(b"heard " + word + b"\n")

    text = 'while read -r word; do echo "heard $word"; done; echo bye'
    result = await sandbox.run(Command(text, 60, recorder, stdin=questions()))
    assert (result.exit_code, bytes(recorder.stdout).split(b"\n")[-2]) == (0, b"bye")


async def test_a_command_that_ends_without_reading_ends_well(sandbox: Sandbox) -> None:
    source = Source([bytes(1_000_000)] * 3)
    result, stdout = await fed(sandbox, "echo done; exit 3", source.stdin())
    assert (result.exit_code, stdout) == (3, b"done\n")
    assert source.is_closed == (source.asked > 0)


async def test_a_command_that_closes_its_input_goes_on(sandbox: Sandbox) -> None:
    result, stdout = await fed(sandbox, "head -c 5; exec <&-; sleep 0.3; echo ' goes on'", items(b"x" * 3_000_000))
    assert (result.exit_code, stdout) == (0, b"xxxxx goes on\n")


async def test_input_that_never_ends_ends_with_the_command(sandbox: Sandbox) -> None:
    source = Source([b"a line\n"])
    result, stdout = await fed(sandbox, "head -n 1; exit 4", source.stdin())
    assert (result.exit_code, stdout, source.is_closed) == (4, b"a line\n", True)


async def test_a_command_that_reads_slowly_holds_up_its_input_alone(sandbox: Sandbox) -> None:
    source = Source([bytes(100_000)] * 1000)
    command = asyncio.create_task(fed(sandbox, "while [ ! -e go ]; do sleep 0.02; done", source.stdin()))
    await source.begun.wait()
    recorder = Recorder()
    other = await sandbox.run(Command("sleep 0.3; cat", 60, recorder, stdin=items(b"not held up\n")))
    assert (other.exit_code, bytes(recorder.stdout)) == (0, b"not held up\n")
    assert 0 < source.asked < 500
    await sandbox.write_text("/go", "")
    assert (await command)[0].exit_code == 0


async def test_the_end_of_one_input_reaches_its_command_while_others_run(sandbox: Sandbox) -> None:
    """No command holds an end of the input of another, or it would never see the end."""
    others = [Source() for _ in range(3)]
    before = asyncio.create_task(fed(sandbox, "cat; exit 1", others[0].stdin()))
    ends = asyncio.Event()

    async def until_told() -> AsyncIterator[bytes]:
        yield b"something\n"
        await ends.wait()

    command = asyncio.create_task(fed(sandbox, "cat", until_told()))
    after = [asyncio.create_task(fed(sandbox, f"sleep {MARK}.31; exit 1", other.stdin())) for other in others[1:]]
    await appeared(sandbox, f"{MARK}.31", 2)
    for other in others:
        await other.begun.wait()
    ends.set()
    assert (await command)[1] == b"something\n"
    for task in (before, *after):
        task.cancel()
    await asyncio.wait([before, *after])
    assert all(other.is_closed for other in others)


async def test_a_cancel_ends_a_command_that_waits_for_input(sandbox: Sandbox) -> None:
    source = Source()
    command = asyncio.create_task(fed(sandbox, f"sleep {MARK}.32 & cat", source.stdin()))
    await appeared(sandbox, f"{MARK}.32")
    await source.begun.wait()
    command.cancel()
    with pytest.raises(asyncio.CancelledError):
        await command
    assert source.is_closed
    assert await all_gone(sandbox, f"{MARK}.32")


async def test_a_time_out_ends_a_command_that_waits_for_input(sandbox: Sandbox) -> None:
    source = Source()
    result = await sandbox.run(Command("cat", 3.0, Recorder(), stdin=source.stdin()))
    assert (result.timed_out, source.is_closed) == (True, True)


async def test_input_that_fails_ends_the_command_and_its_error_goes_on(sandbox: Sandbox) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"something"
        raise OSError("nothing more can be read")

    with pytest.raises(OSError, match="nothing more can be read"):
        await sandbox.run(Command(f"cat; sleep {MARK}.33", 60, Recorder(), stdin=broken()))
    assert await all_gone(sandbox, f"{MARK}.33")
