"""From `publish` to `page`: numbered without gaps, in the log before anyone sees it, at nobody's expense."""

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path

import pytest

from runner_service.errors import LogUnavailableEnd, UnavailableError
from runner_service.events.stream import MAX_OUTPUT_BYTES_PER_EVENT, EventStream
from runner_service.events.writer import LogWriter, log_writer
from runner_service.storage.event_log import Entry, LogError, NewEvent, NewExecution, Rejection
from runner_service.storage.sqlite.event_log import SqliteEventLog, sqlite_event_log
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2


class Disk:
    """A log on a disk that can be full, and that tells what it was given."""

    def __init__(self, log: SqliteEventLog) -> None:
        self._log = log
        self.full = False
        self.defect: Exception | None = None
        self.room_for_output = 1 << 30
        self.batches: list[int] = []

    def __getattr__(self, name: str) -> object:
        return getattr(self._log, name)

    async def append(self, entries: Sequence[Entry], owners: Mapping[str, int]) -> Mapping[str, Rejection]:
        if self.defect:
            raise self.defect
        output = sum(len(entry.output.data) for entry in entries if isinstance(entry, NewEvent) and entry.output)
        if self.full or output > self.room_for_output:
            raise LogError("database or disk is full")
        self.batches.append(sum(entry.count for entry in entries if isinstance(entry, NewEvent)))
        return await self._log.append(entries, owners)


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[Disk]:
    async with sqlite_event_log(tmp_path) as log:
        yield Disk(log)


@pytest.fixture
async def writer(disk: Disk) -> AsyncIterator[LogWriter]:
    async with log_writer(disk) as writer:  # type: ignore[arg-type]  # the rest of the log is passed through
        yield writer


@pytest.fixture
def stream(disk: Disk, writer: LogWriter) -> EventStream:
    return new_stream("e1", disk, writer)


@pytest.fixture
def impatient(writer: LogWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets the writer wait for a tenth of a second, not for three, until it says that the log cannot be written."""
    monkeypatch.setattr("runner_service.events.writer._WRITE_TIMEOUT_SECONDS", 0.1)
    monkeypatch.setattr("runner_service.events.writer._MAX_BACKOFF_SECONDS", 0.1)
    writer.expect_end()


def new_stream(name: str, disk: Disk, writer: LogWriter) -> EventStream:
    stream = EventStream(name, writer, disk)  # type: ignore[arg-type]  # as above
    stream.append(NewExecution(runner_pb2.Execution(execution_id=name), b"print"), 0)
    return stream


def say(stream: EventStream, text: str) -> int:
    return stream.publish_text(stream.text_framer(event_pb2.TextDelta, "m"), text)


def finish(stream: EventStream) -> None:
    stream.publish(event_pb2.Finished(state=event_pb2.STATE_SUCCEEDED))


async def follow(stream: EventStream, after: int = 0, *, pause: float = 0.0) -> list[event_pb2.ExecutionEvent]:
    watcher = object()
    events: list[event_pb2.ExecutionEvent] = []
    try:
        while (page := await stream.page(watcher, after, timeout_seconds=5.0)) is not None:
            events += runner_pb2.ExecuteAgentResponse.FromString(page.frames).events
            after = page.last
            await asyncio.sleep(pause)
    finally:
        stream.remove_watcher(watcher)
    return events


async def test_events_are_numbered_without_gaps_and_end_with_the_last(stream: EventStream) -> None:
    following = asyncio.create_task(follow(stream))
    for n in range(500):
        say(stream, str(n))
        if n % 7 == 0:
            await asyncio.sleep(0)
    finish(stream)

    events = await following

    assert [event.sequence for event in events] == list(range(1, 502))
    assert [event.text_delta.text for event in events[:-1]] == [str(n) for n in range(500)]
    assert events[-1].finished.state == event_pb2.STATE_SUCCEEDED
    assert events[0].execution_id == "e1"
    assert events[0].create_time.seconds > 1_700_000_000


async def test_a_text_that_cannot_be_encoded_takes_no_number(stream: EventStream) -> None:
    say(stream, "before")
    with pytest.raises(UnicodeEncodeError):
        say(stream, "\ud800")
    say(stream, "after")
    finish(stream)

    assert [(event.sequence, event.text_delta.text) for event in await follow(stream)] == [
        (1, "before"),
        (2, "after"),
        (3, ""),
    ]


async def test_whoever_comes_late_sees_the_same_from_wherever_it_left(stream: EventStream) -> None:
    for n in range(50):
        say(stream, str(n))
        await asyncio.sleep(0)
    early = asyncio.create_task(follow(stream))
    await stream.flush()
    for n in range(50, 100):
        say(stream, str(n))
        await asyncio.sleep(0)
    late = asyncio.create_task(follow(stream, after=70))
    finish(stream)

    whole = await early
    assert await late == whole[70:]
    assert await follow(stream, after=13) == whole[13:]
    assert await follow(stream, after=101) == []


async def test_events_that_were_logged_together_can_be_read_from_any_of_them_on(stream: EventStream) -> None:
    watching = object()
    page = asyncio.create_task(stream.page(watching, 0, timeout_seconds=5.0))
    await asyncio.sleep(0)
    for n in range(1, 101):
        say(stream, str(n))
    await page
    for from_memory in (True, False):
        if not from_memory:
            stream.remove_watcher(watching)
        for after in (0, 1, 50, 99):
            found = await stream.page(watching, after, timeout_seconds=5.0)
            assert found is not None
            events = runner_pb2.ExecuteAgentResponse.FromString(found.frames).events
            assert [event.text_delta.text for event in events] == [str(n) for n in range(after + 1, 101)]


async def test_nothing_is_shown_before_it_is_in_the_log(disk: Disk, stream: EventStream) -> None:
    disk.full = True
    following = asyncio.create_task(follow(stream))
    say(stream, "seen by nobody")
    await asyncio.sleep(0.1)
    assert stream.committed == 0
    assert not following.done()

    disk.full = False
    finish(stream)
    assert len(await following) == 2


async def test_under_load_batches_grow_by_themselves(disk: Disk, stream: EventStream) -> None:
    for n in range(1000):
        say(stream, str(n))
    await stream.flush()

    assert max(disk.batches) >= 1000


async def test_output_comes_back_byte_for_byte_however_large(disk: Disk, stream: EventStream) -> None:
    data = bytes(range(256)) * 4096
    stream.publish(event_pb2.ToolCallStarted(tool_call_id="c", name="execute"))
    live = asyncio.create_task(follow(stream))
    stream.publish_output("c", "stdout", data, sub_agent_id="sub")
    stream.publish_output("c", "stderr", b"x")
    stream.store_late_output("c", "stdout", b"late")
    finish(stream)

    for events in (await live, await follow(stream)):
        outputs = [event for event in events if event.HasField("tool_output")]
        assert b"".join(event.tool_output.stdout for event in outputs) == data
        assert outputs[-1].tool_output.stderr == b"x"
        assert outputs[0].sub_agent_id == "sub"
        assert max(len(event.tool_output.stdout) for event in outputs) == MAX_OUTPUT_BYTES_PER_EVENT
    assert await stream.read_output("c", "stdout", len(data) - 1, 10) == data[-1:] + b"late"


async def test_a_slow_watcher_slows_nobody_and_misses_nothing(stream: EventStream) -> None:
    slow = asyncio.create_task(follow(stream, pause=0.05))
    fast = asyncio.create_task(follow(stream))
    await asyncio.sleep(0)
    stream.publish(event_pb2.ToolCallStarted(tool_call_id="c", name="execute"))
    for _ in range(60):
        stream.publish_output("c", "stdout", b"x" * MAX_OUTPUT_BYTES_PER_EVENT)
        await stream.wait_for_capacity()
        await asyncio.sleep(0)
    finish(stream)

    events = await fast
    assert not slow.done()
    assert stream._tail.size <= 3 * 1024 * 1024
    assert [event.sequence for event in await slow] == [event.sequence for event in events] == list(range(1, 63))


async def test_a_page_without_news_is_empty_after_the_patience(stream: EventStream) -> None:
    say(stream, "hello")
    await stream.flush()

    assert await stream.page(object(), 1, timeout_seconds=0.01) == (b"", 1)


@pytest.mark.usefixtures("impatient")
async def test_a_full_disk_ends_the_execution_and_loses_nothing_once_there_is_room(
    disk: Disk, stream: EventStream
) -> None:
    told: list[LogUnavailableEnd] = []

    def end(reason: LogUnavailableEnd) -> None:
        told.append(reason)
        finish(stream)

    stream.on_break = end
    disk.full = True
    following = asyncio.create_task(follow(stream))
    say(stream, "before")

    with pytest.raises(UnavailableError, match="disk is full"):
        await following
    assert [reason.code for reason in told] == ["LOG_UNAVAILABLE"]
    with pytest.raises(LogUnavailableEnd):
        await stream.wait_for_capacity()

    disk.full = False
    async with asyncio.timeout(60):
        while stream.committed < 2:
            await asyncio.sleep(0.01)
    assert [event.sequence for event in await follow(stream)] == [1, 2]


@pytest.mark.usefixtures("impatient")
async def test_who_watches_is_told_again_when_the_disk_is_full_again(
    disk: Disk, writer: LogWriter, stream: EventStream
) -> None:
    for n in range(2):
        disk.full = True
        say(stream, "more")
        async with asyncio.timeout(60):
            with pytest.raises(UnavailableError, match="disk is full"):
                await stream.page(object(), n, timeout_seconds=60)
            disk.full = False
            while writer.broken:
                await asyncio.sleep(0.01)


@pytest.mark.usefixtures("impatient")
async def test_a_disk_with_little_room_takes_what_waits_part_by_part(
    disk: Disk, writer: LogWriter, stream: EventStream
) -> None:
    other = new_stream("e2", disk, writer)
    disk.full = True
    stream.publish(event_pb2.ToolCallStarted(tool_call_id="c", name="execute"))
    for _ in range(20):
        stream.publish_output("c", "stdout", b"x" * MAX_OUTPUT_BYTES_PER_EVENT)
        say(other, "in between")
    finish(stream)
    finish(other)
    async with asyncio.timeout(60):
        while not writer.broken:
            await asyncio.sleep(0.01)
    disk.full, disk.room_for_output = False, MAX_OUTPUT_BYTES_PER_EVENT

    async with asyncio.timeout(60):
        while writer.broken:
            await asyncio.sleep(0.01)

    assert [event.sequence for event in await follow(stream)] == list(range(1, 23))
    assert [event.sequence for event in await follow(other)] == list(range(1, 22))
    assert max(disk.batches) < 23  # or it would all have been one batch


async def test_a_log_that_falls_behind_holds_up_whoever_publishes(disk: Disk, stream: EventStream) -> None:
    disk.full = True
    stream.publish(event_pb2.ToolCallStarted(tool_call_id="c", name="execute"))
    for _ in range(40):
        stream.publish_output("c", "stdout", b"x" * MAX_OUTPUT_BYTES_PER_EVENT)
    waiting = asyncio.create_task(stream.wait_for_capacity())
    await asyncio.sleep(0.05)
    assert not waiting.done()

    disk.full = False
    await asyncio.wait_for(waiting, 10)


async def test_a_defect_of_the_writer_leaves_nobody_waiting_and_ends_whoever_runs_it(disk: Disk) -> None:
    noticed: list[bool] = []
    ends: list[LogUnavailableEnd] = []
    disk.defect = RuntimeError("a defect")
    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="a defect")):
        async with log_writer(disk, on_change=noticed.append) as writer:  # type: ignore[arg-type]  # as above
            stream = new_stream("e1", disk, writer)
            stream.on_break = ends.append
            say(stream, "one")
            with pytest.raises(UnavailableError, match="writer of the event log has failed"):
                await stream.page(object(), 0, timeout_seconds=60)
            await stream.flush()
            late = new_stream("e2", disk, writer)
            with pytest.raises(LogUnavailableEnd):
                await late.wait_for_capacity()
            await asyncio.sleep(60)
    assert noticed == [True]
    assert len(ends) == 1


async def test_closing_the_writer_commits_what_is_left(tmp_path: Path) -> None:
    async with sqlite_event_log(tmp_path) as log:
        async with log_writer(log) as writer:
            stream = new_stream("e1", log, writer)  # type: ignore[arg-type]  # the log itself will do
            for n in range(10):
                say(stream, str(n))
        assert (await log.read("e1", 0, 1 << 20)).last == 10


async def test_a_stream_that_is_closed_shows_what_is_there_and_then_says_why(stream: EventStream) -> None:
    say(stream, "one")
    await stream.flush()
    stream.close(UnavailableError("the service is stopping"))
    watcher = object()

    page = await stream.page(watcher, 0, timeout_seconds=1)
    assert page is not None
    assert page.last == 1
    with pytest.raises(UnavailableError, match="stopping"):
        await stream.page(watcher, 1, timeout_seconds=1)
