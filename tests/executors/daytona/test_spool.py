"""What is kept of a command's output in a box: no byte is lost, and no disk filled."""

import asyncio
import base64
from pathlib import Path

import pytest

from runner_service.executors.attendant.sessions import Run
from runner_service.executors.attendant.spool import DiskFullError, News, Spool
from runner_service.executors.local.executor import local_executor
from runner_service.executors.protocol import SandboxSpec

PIECE = bytes(range(256)) * 1024


async def write_for_ever(spool: Spool) -> None:
    while True:
        await spool.write("stdout", PIECE)
        await asyncio.sleep(0)


async def stands_still(spool: Spool) -> int:
    """Returns the size at which it stays."""
    size = -1
    async with asyncio.timeout(20):
        while size != (size := spool.sizes["stdout"]) or not size:
            await asyncio.sleep(0.1)
    return size


async def taken(spool: Spool, count: int) -> bytes:
    """Takes at least that much, as the service does."""
    found = bytearray()
    while len(found) < count:
        offsets = {"stdout": len(found), "stderr": 0}
        spool.take("stdout", len(found))
        found += base64.b64decode(spool.pieces(offsets)["stdout"])  # type: ignore[arg-type]  # its kind
        await asyncio.sleep(0)
    return bytes(found)


@pytest.mark.parametrize("forgets", [False, True])
async def test_who_writes_for_ever_is_held_up_while_nobody_takes_it_and_loses_nothing(
    tmp_path: Path, forgets: bool
) -> None:
    spool = Spool(tmp_path, News(), forgets=forgets)
    writing = asyncio.create_task(write_for_ever(spool))
    assert await stands_still(spool) < 5_000_000
    found = await taken(spool, 50_000_000)
    assert found == (PIECE * 250)[: len(found)]
    assert await stands_still(spool) < len(found) + 5_000_000
    on_disk = (tmp_path / "stdout").stat().st_size
    assert on_disk == spool.sizes["stdout"] or (forgets and on_disk < 25_000_000)
    writing.cancel()
    spool.close()


async def test_a_full_disk_is_left_to_those_who_write_little(tmp_path: Path) -> None:
    class Full(Spool):
        def _is_room_on_disk(self, file: int) -> bool:
            return False

    spool = Full(tmp_path, News(), patience=0.3)
    for _ in range(5):
        await spool.write("stdout", PIECE)
    with pytest.raises(DiskFullError):
        await spool.write("stdout", PIECE)
    await spool.write("stderr", b"little")
    assert spool.sizes == {"stdout": 5 * len(PIECE), "stderr": 6}
    spool.close()


async def test_a_command_for_whose_output_there_is_no_room_is_ended_and_says_why(tmp_path: Path) -> None:
    class Full(Spool):
        async def write(self, stream: str, data: bytes) -> None:
            raise DiskFullError

    async with (
        local_executor(root=tmp_path / "root", state_dir=tmp_path / "state", terminate_grace=0.25) as executor,
        executor.open(SandboxSpec("e")) as sandbox,
    ):
        run = Run(tmp_path, News())
        run.spool.close()
        run.spool = Full(tmp_path, News())
        run.start(sandbox, "echo something; sleep 72.51", 60)
        async with asyncio.timeout(20):
            await run.ended.wait()
        run.spool.close()
    assert run.result
    assert "the disk of the sandbox is full" in run.result["lost"]
