"""Disks that are full, read-only or damaged: it is said, nothing that was seen is lost, and afterwards it goes on."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from tests.faults.conftest import BreakableDisk, SmallDisk
from tests.running import (
    Client,
    Event,
    ServiceProcess,
    StartProcess,
    StartService,
    command,
    kinds,
    one,
    stdout_of,
    turn,
)

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

MakeDisk = Callable[[int], SmallDisk]
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING
WAIT = "until [ -e go ]; do sleep 0.02; done"


async def seen_until_it_breaks(client: Client, execution_id: str) -> tuple[list[Event], grpc.aio.AioRpcError]:
    events: list[Event] = []
    try:
        async for response in client.stub.ExecuteAgent(client.request(execution_id=execution_id)):
            events += response.events
    except grpc.aio.AioRpcError as error:
        return events, error
    raise AssertionError("it did not break")


async def attached_when_it_works_again(client: Client, execution_id: str, after: int) -> list[Event]:
    request = runner_pb2.ExecuteAgentRequest(execution_id=execution_id, after_sequence=after)
    async with asyncio.timeout(60):
        while True:
            try:
                return await client.collect(client.stub.ExecuteAgent(request))
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.1)


async def works(client: Client) -> None:
    async with asyncio.timeout(60):
        while True:
            try:
                events = await client.execute()
            except grpc.aio.AioRpcError as error:
                if error.code() != grpc.StatusCode.UNAVAILABLE:
                    raise
                await asyncio.sleep(0.1)
                continue
            assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
            return


async def test_output_that_fills_the_disk_of_the_log_ends_the_execution_and_nothing_seen_is_lost(
    start: StartService, small_disk: MakeDisk
) -> None:
    disk = small_disk(4)
    client = await start(
        [turn("", command("echo $$; head -c 30000000 /dev/zero; sleep 60")), turn("Done.")],
        STATE_DIR=str(disk.path),
        STATE_MIN_FREE_BYTES="0",
    )
    seen, broken = await seen_until_it_breaks(client, "a")
    assert broken.code() == grpc.StatusCode.UNAVAILABLE
    assert "the event log cannot be written" in str(broken.details())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.execute(execution_id="b")
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE

    disk.make_room()
    rest = await attached_when_it_works_again(client, "a", len(seen))

    events = seen + rest
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert one(events, "finished").error.code == "LOG_UNAVAILABLE"
    assert one(events, "tool_call_finished").outcome == event_pb2.TOOL_OUTCOME_CANCELLED
    replayed = await client.collect(client.stub.WatchExecution(runner_pb2.WatchExecutionRequest(execution_id="a")))
    assert replayed == events
    assert len(stdout_of(events)) > 1_000_000


async def fill_with_reserve(disk: SmallDisk) -> None:
    """Fills a disk, and what the service then gives back of it."""
    reserve = disk.path / "reserve"
    for is_held in (True, False):
        async with asyncio.timeout(60):
            while reserve.exists() is not is_held:
                await asyncio.sleep(0.02)
        disk.fill()


async def test_a_disk_that_is_full_at_a_checkpoint_ends_the_execution_and_says_so(
    start: StartService, small_disk: MakeDisk, tmp_path: Path
) -> None:
    """The log is on the same disk; whichever fails first, it is the same account."""
    disk = small_disk(4)
    client = await start([turn("", command(f"echo up; {WAIT}")), turn("Done.")], STATE_DIR=str(disk.path))
    call = client.stub.ExecuteAgent(client.request(execution_id="a"))
    seen = await client.collect(call, until=lambda event: event.HasField("tool_output"))
    await fill_with_reserve(disk)
    (tmp_path / "workspace" / "go").touch()
    with pytest.raises(grpc.aio.AioRpcError) as broken:
        await client.collect(call)
    assert broken.value.code() == grpc.StatusCode.UNAVAILABLE

    disk.make_room()
    events = seen + await attached_when_it_works_again(client, "a", len(seen))

    assert one(events, "finished").error.code == "LOG_UNAVAILABLE"
    await works(client)


async def test_a_full_workspace_fails_the_tools_and_changes_no_file(start: StartService, small_disk: MakeDisk) -> None:
    disk = small_disk(1)
    (disk.path / "old.txt").write_text("old")
    disk.fill()
    long = "x" * 100_000
    client = await start(
        [
            turn("", ("write_file", {"file_path": "/new.txt", "content": long})),
            turn("", ("edit_file", {"file_path": "/old.txt", "old_string": "old", "new_string": long})),
            turn("", command("head -c 100000 /dev/zero > other.txt")),
            turn("Done."),
        ],
        SANDBOX_ROOT_DIR=str(disk.path),
    )

    events = await client.execute()

    ended = [event.tool_call_finished for event in events if event.HasField("tool_call_finished")]
    assert [each.outcome for each in ended] == [event_pb2.TOOL_OUTCOME_FAILED] * 3
    assert all("o space" in each.result for each in ended)
    assert (disk.path / "old.txt").read_text() == "old"
    assert {path.name for path in disk.path.iterdir()} <= {"filler", "old.txt", "other.txt"}
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED


async def test_a_full_disk_at_the_start_is_said_at_once(
    start_process: StartProcess, small_disk: MakeDisk, capfd: pytest.CaptureFixture[str]
) -> None:
    disk = small_disk(1)
    disk.fill()
    with pytest.raises(RuntimeError, match="exit code 75"):
        await start_process([turn("Hi.")], STATE_DIR=str(disk.path))
    assert f"STATE_DIR {disk.path}" in capfd.readouterr().err


async def test_a_read_only_state_directory_is_said_at_once(
    start_process: StartProcess, small_disk: MakeDisk, capfd: pytest.CaptureFixture[str]
) -> None:
    disk = small_disk(1)
    disk.remount("ro")
    with pytest.raises(RuntimeError, match="exit code 78"):
        await start_process([turn("Hi.")], STATE_DIR=str(disk.path))
    assert "set it to a directory that can be written" in capfd.readouterr().err


async def health_of(service: ServiceProcess, name: str = "") -> int:
    stub: Any = health_pb2_grpc.HealthStub(service.channel)
    response = await stub.Check(health_pb2.HealthCheckRequest(service=name))
    return int(response.status)


async def test_a_file_system_that_turns_read_only_is_said_and_after_its_repair_everything_goes_on(
    start_process: StartProcess, breakable_disk: BreakableDisk, tmp_path: Path
) -> None:
    turns = [turn("", command(f"echo up; {WAIT}")), turn("", command("echo on")), turn("Done.")]
    service = await start_process(turns, STATE_DIR=str(breakable_disk.path))
    call = service.stub.ExecuteAgent(service.client.request(execution_id="a"))
    seen = await service.client.collect(call, until=lambda event: event.HasField("tool_output"))
    breakable_disk.break_down()
    (tmp_path / "workspace" / "go").touch()

    with pytest.raises(grpc.aio.AioRpcError) as broken:
        await service.client.collect(call)
    assert broken.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "the event log cannot be written" in str(broken.value.details())
    assert await health_of(service) == NOT_SERVING
    assert await health_of(service, "liveness") == SERVING
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await service.client.execute(execution_id="b")
    assert refused.value.code() == grpc.StatusCode.UNAVAILABLE
    service.process.terminate()
    assert await service.ended() == 0

    await asyncio.to_thread(breakable_disk.repair)
    service = await start_process(STATE_DIR=str(breakable_disk.path))
    events = seen + await attached_when_it_works_again(service.client, "a", len(seen))

    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED


async def test_files_that_take_no_more_writes_for_a_while_are_said_and_then_written_again(
    start_process: StartProcess, tmp_path: Path
) -> None:
    """By the limit on the size of files, which a process can be given and relieved of."""
    service = await start_process([turn("", command(f"echo up; {WAIT}")), turn("Done.")])
    call = service.stub.ExecuteAgent(service.client.request(execution_id="a"))
    seen = await service.client.collect(call, until=lambda event: event.HasField("tool_output"))
    process = psutil.Process(service.process.pid)
    before = process.rlimit(psutil.RLIMIT_FSIZE)
    process.rlimit(psutil.RLIMIT_FSIZE, (1, before[1]))
    (tmp_path / "workspace" / "go").touch()
    with pytest.raises(grpc.aio.AioRpcError) as broken:
        await service.client.collect(call)
    assert broken.value.code() == grpc.StatusCode.UNAVAILABLE
    assert await health_of(service) == NOT_SERVING

    process.rlimit(psutil.RLIMIT_FSIZE, before)
    events = seen + await attached_when_it_works_again(service.client, "a", len(seen))

    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert one(events, "finished").error.code == "LOG_UNAVAILABLE"
    await works(service.client)
    assert await health_of(service) == SERVING


@pytest.mark.parametrize("content", [b"x", b"this is no database, but it is long enough to be taken for one" * 20])
async def test_a_log_that_is_no_log_is_said_at_once_and_left_alone(
    start_process: StartProcess, tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "events.db").write_bytes(content)
    with pytest.raises(RuntimeError, match="exit code 75"):
        await start_process([turn("Hi.")])
    told = capfd.readouterr().err
    assert "the event log in STATE_DIR" in told
    assert "move the directory away to begin with an empty one" in told
    assert (tmp_path / "state" / "events.db").read_bytes() == content


@pytest.mark.parametrize("content", [b"x", b"no database at all, whatever its name may promise" * 20])
async def test_checkpoints_that_are_none_end_every_execution_with_what_to_do(
    start: StartService, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "checkpoints.db").write_bytes(content)
    client = await start([turn("Hi.")])

    finished = one(await client.execute(), "finished")

    assert finished.error.code == "LOG_UNAVAILABLE"
    assert "checkpoints.db" in finished.error.message
    assert "move it away" in finished.error.message
    assert (tmp_path / "state" / "checkpoints.db").read_bytes() == content


async def test_output_that_was_lost_from_the_disk_is_said_to_whoever_replays(
    start: StartService, tmp_path: Path
) -> None:
    client = await start([turn("", command("echo gone")), turn("Done.")])
    await client.execute(execution_id="a")
    (file,) = (tmp_path / "state" / "outputs").rglob("*.stdout")
    file.write_bytes(b"")

    with pytest.raises(grpc.aio.AioRpcError) as broken:
        await client.execute(execution_id="a")

    assert broken.value.code() == grpc.StatusCode.UNAVAILABLE
    assert "shorter than its events" in str(broken.value.details())
    events = await client.execute(execution_id="b")
    assert kinds(events)[-1] == "finished"
