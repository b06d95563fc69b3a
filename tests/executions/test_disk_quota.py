"""What an execution may store, and who ends when the disk becomes full."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.running import StartService, command, one, stdout_of, turn

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2


async def test_output_beyond_the_quota_is_dropped_and_counted_and_the_execution_goes_on(start: StartService) -> None:
    client = await start([turn("", command("head -c 6000000 /dev/zero")), turn("Done.")], EXECUTION_MAX_BYTES="4000000")
    events = await client.execute()
    finished = one(events, "tool_call_finished")
    assert 2_900_000 < len(stdout_of(events)) < 3_000_000
    assert finished.dropped_bytes == 6_000_000 - len(stdout_of(events))
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED


async def test_the_quota_is_of_the_execution_and_not_of_each_command(start: StartService) -> None:
    client = await start(
        [turn("", *[command("head -c 2000000 /dev/zero") for _ in range(3)]), turn("Done.")],
        EXECUTION_MAX_BYTES="4000000",
    )
    assert len(stdout_of(await client.execute())) < 3_000_000


async def test_events_beyond_the_quota_end_the_execution_and_its_end_is_stored(start: StartService) -> None:
    client = await start([turn("word " * 50_000), turn("Done.")], EXECUTION_MAX_BYTES="100000")
    events = await client.execute(execution_id="e1")
    finished = one(events, "finished")
    assert (finished.state, finished.error.code) == (event_pb2.STATE_FAILED, "LIMIT_EXCEEDED")
    assert "EXECUTION_MAX_BYTES = 100000" in finished.error.message
    replayed = await client.collect(client.stub.WatchExecution(runner_pb2.WatchExecutionRequest(execution_id="e1")))
    assert replayed == events


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", disk], capture_output=True, check=False
    ).returncode:
        pytest.skip("this user may not mount")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


async def test_when_the_disk_becomes_full_the_one_that_stores_most_ends_and_the_others_go_on(
    start: StartService, small_disk: Path, tmp_path: Path
) -> None:
    client = await start(
        {
            "turns": [turn("", command("{{message}}")), turn("Done.")],
        },
        STATE_DIR=str(small_disk / "state"),
        STATE_MIN_FREE_BYTES=str(3 << 20),
    )
    (small_disk / "other").write_bytes(bytes(52 << 20))
    waiting = "head -c 2000000 /dev/zero; until [ -e go ]; do sleep 0.1; done"
    small = asyncio.create_task(client.execute(waiting, execution_id="small"))
    await client.started("small")
    large = await client.execute("while true; do head -c 50000 /dev/zero; sleep 0.1; done", execution_id="large")
    (tmp_path / "workspace" / "go").touch()
    finished = one(large, "finished")
    assert (finished.state, finished.error.code) == (event_pb2.STATE_FAILED, "LIMIT_EXCEEDED")
    assert "nearly full" in finished.error.message
    assert one(await small, "finished").state == event_pb2.STATE_SUCCEEDED
    assert os.statvfs(small_disk).f_bavail > 0
