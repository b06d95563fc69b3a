"""What is kept of a command's output in a sandbox: no byte is lost, and no disk filled."""

import asyncio
from pathlib import Path

import pytest

from runner_service.executors.attendant.output_buffer import DiskFullError, Notifier, OutputBuffer
from runner_service.executors.attendant.sessions import CommandRun
from runner_service.executors.local.executor import local_executor
from runner_service.executors.protocol import SandboxSpec

PIECE = bytes(range(256)) * 1024


async def write_for_ever(output: OutputBuffer) -> None:
    while True:
        await output.write("stdout", PIECE)
        await asyncio.sleep(0)


async def stands_still(output: OutputBuffer) -> int:
    """Returns the size at which it stays."""
    size = -1
    async with asyncio.timeout(60):
        while size != (size := output.sizes["stdout"]) or not size:
            await asyncio.sleep(0.1)
    return size


async def taken(output: OutputBuffer, count: int) -> bytes:
    """Takes at least that much, as the service does."""
    found = bytearray()
    while len(found) < count:
        output.acknowledge("stdout", len(found))
        found += output.read("stdout", len(found), len(found) + 1_000_000)
        await asyncio.sleep(0)
    return bytes(found)


@pytest.mark.parametrize("discards", [False, True])
async def test_who_writes_for_ever_is_held_up_while_nobody_takes_it_and_loses_nothing(
    tmp_path: Path, discards: bool
) -> None:
    output = OutputBuffer(tmp_path, Notifier(), discard_acknowledged=discards)
    writing = asyncio.create_task(write_for_ever(output))
    assert await stands_still(output) < 5_000_000
    found = await taken(output, 50_000_000)
    assert found == (PIECE * 250)[: len(found)]
    assert await stands_still(output) < len(found) + 5_000_000
    on_disk = (tmp_path / "stdout").stat().st_size
    assert on_disk == output.sizes["stdout"] or (discards and on_disk < 25_000_000)
    writing.cancel()
    output.close()


async def test_a_full_disk_is_left_to_those_who_write_little(tmp_path: Path) -> None:
    class Full(OutputBuffer):
        def _has_disk_space(self, file: int) -> bool:
            return False

    output = Full(tmp_path, Notifier(), disk_timeout=0.3)
    for _ in range(5):
        await output.write("stdout", PIECE)
    with pytest.raises(DiskFullError):
        await output.write("stdout", PIECE)
    await output.write("stderr", b"little")
    assert output.sizes == {"stdout": 5 * len(PIECE), "stderr": 6}
    output.close()


async def test_a_command_for_whose_output_there_is_no_room_is_ended_and_says_why(tmp_path: Path) -> None:
    class Full(OutputBuffer):
        async def write(self, stream: str, data: bytes) -> None:
            raise DiskFullError

    async with (
        local_executor(root=tmp_path / "root", state_dir=tmp_path / "state", terminate_grace=0.25) as executor,
        executor.open(SandboxSpec("e")) as sandbox,
    ):
        run = CommandRun(tmp_path, Notifier())
        run.output.close()
        run.output = Full(tmp_path, Notifier())
        run.start(sandbox, "echo something; sleep 82.51", 60)
        async with asyncio.timeout(60):
            await run.ended.wait()
        run.output.close()
    assert run.result
    assert "the disk of the sandbox is full" in run.result["lost"]
