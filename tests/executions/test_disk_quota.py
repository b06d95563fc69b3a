"""What an execution may store, and who ends when the disk becomes full."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from tests.running import Client, StartProcess, StartService, command, one, stdout_of, turn, written

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
        ["mount", "-t", "tmpfs", "-o", "size=68m", "tmpfs", disk], capture_output=True, check=False
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
    waiting = "head -c 2000000 /dev/zero; echo > stored; until [ -e go ]; do sleep 0.1; done"
    small = asyncio.create_task(client.execute(waiting, execution_id="small"))
    await written(tmp_path / "workspace" / "stored")
    large = await client.execute("while true; do head -c 200000 /dev/zero; sleep 0.1; done", execution_id="large")
    (tmp_path / "workspace" / "go").touch()
    finished = one(large, "finished")
    assert (finished.state, finished.error.code) == (event_pb2.STATE_FAILED, "LIMIT_EXCEEDED")
    assert "nearly full" in finished.error.message
    assert one(await small, "finished").state == event_pb2.STATE_SUCCEEDED
    assert os.statvfs(small_disk).f_bavail > 0


async def refused_until(client: Client, *, is_refused: bool) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                await client.execute()
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                if is_refused and "the disk of STATE_DIR is full" in str(error.details()):
                    return
            else:
                if not is_refused:
                    return
            await asyncio.sleep(0.05)


async def test_when_others_fill_the_disk_the_end_is_stored_in_the_reserve_and_can_be_deleted(
    start: StartService, small_disk: Path, tmp_path: Path
) -> None:
    state = small_disk / "state"
    client = await start({"turns": [turn("", command("{{message}}")), turn("Done.")]}, STATE_DIR=str(state))
    async with asyncio.timeout(60):
        while not (state / "reserve").exists() or (state / "reserve").stat().st_blocks * 512 < 3 << 20:
            await asyncio.sleep(0.05)
    goes_on = "echo > begun; while echo up; do sleep 0.1; done"
    running = asyncio.create_task(client.execute(goes_on, execution_id="running"))
    await written(tmp_path / "workspace" / "begun")

    with suppress(OSError), (small_disk / "other").open("wb", buffering=0) as other:
        while other.write(bytes(4096)):
            pass

    events = await running
    finished = one(events, "finished")
    assert (finished.state, finished.error.code) == (event_pb2.STATE_FAILED, "LOG_UNAVAILABLE")
    assert "full" in finished.error.message
    await refused_until(client, is_refused=True)
    watch = runner_pb2.WatchExecutionRequest(execution_id="running")
    assert await client.collect(client.stub.WatchExecution(watch)) == events
    await client.stub.DeleteExecution(runner_pb2.DeleteExecutionRequest(execution_id="running"))

    (small_disk / "other").unlink()
    await refused_until(client, is_refused=False)
    assert (state / "reserve").exists()


async def test_what_was_stored_is_in_the_account_and_counts_after_a_resume(start_process: StartProcess) -> None:
    turns = [
        turn("", command("head -c 2000000 /dev/zero")),
        turn("", command("echo waits; sleep 60")),
        turn("", command("head -c 2000000 /dev/zero")),
        turn("Done."),
    ]
    variables = {"EXECUTION_MAX_BYTES": "4000000", "RESUME_ON_START": "true"}
    service = await start_process(turns, **variables)
    call = service.stub.ExecuteAgent(service.client.request(execution_id="a"))
    seen = await service.client.collect(call, until=lambda event: event.tool_output.stdout == b"waits\n")
    service.process.kill()
    await service.ended()
    service = await start_process(**variables)
    request = runner_pb2.ExecuteAgentRequest(execution_id="a", after_sequence=len(seen))
    events = seen + await service.client.collect(service.stub.ExecuteAgent(request))
    assert 2_800_000 < len(stdout_of(events)) < 3_000_000
    finished = one(events, "finished")
    assert 2_900_000 < finished.usage.stored_bytes < 3_100_000
    updates = [each.usage_updated.usage.stored_bytes for each in events if each.HasField("usage_updated")]
    assert updates == sorted(updates)
    assert updates[-1] <= finished.usage.stored_bytes
