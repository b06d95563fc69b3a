"""What the SQLite log promises whoever writes to it and reads from it."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from runner_service.identity import OwnerKey
from runner_service.storage.event_log import LogError, NewCall, NewEvent, NewExecution, NewOutput, NewState, NewValue
from runner_service.storage.execution_filter import ExecutionFilter
from runner_service.storage.journal import CallResult
from runner_service.storage.ownership import interrupt_abandoned
from runner_service.storage.sqlite.event_log import SqliteEventLog, sqlite_event_log
from runner_service.storage.sqlite.ownership import SoleOwnership
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteEventLog]:
    async with sqlite_event_log(tmp_path / "state") as log:
        yield log


def execution(
    name: str, *, state: "event_pb2.State.ValueType" = event_pb2.STATE_PENDING, session: str = ""
) -> NewExecution:
    return NewExecution(runner_pb2.Execution(execution_id=name, state=state, session_id=session), b"print")


def ended(name: str) -> NewState:
    return NewState(runner_pb2.Execution(execution_id=name, state=event_pb2.STATE_SUCCEEDED))


def output_event(name: str, sequence: int, call: str, data: bytes, head: bytes = b"H") -> NewEvent:
    return NewEvent(name, sequence, head, NewOutput(name, call, "stdout", data))


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_events_are_read_in_order_and_in_pages(log: SqliteEventLog) -> None:
    await log.append([execution("a"), execution("b")])
    await log.append([NewEvent(name, n, f"<{name}{n}>".encode()) for n in range(1, 6) for name in ("a", "b")])

    assert await log.read("a", 0, 1 << 20) == (b"<a1><a2><a3><a4><a5>", 5)
    assert await log.read("b", 3, 1 << 20) == (b"<b4><b5>", 5)
    assert await log.read("a", 0, 9) == (b"<a1><a2>", 2)
    assert await log.read("a", 2, 1) == (b"<a3>", 3)
    assert await log.read("a", 5, 100) == (b"", 5)


async def test_an_execution_knows_its_newest_event(log: SqliteEventLog) -> None:
    await log.append([execution("a"), execution("b")])
    await log.append([NewEvent("b", 1, b"<b1>")])
    await log.append([NewEvent("b", 4, b"<b2><b3><b4>", count=3)])

    for name, newest in (("a", 0), ("b", 4)):
        stored = await log.get(name)
        assert stored
        assert stored.execution.last_sequence == newest
    page = await log.list_executions(ExecutionFilter(), limit=5)
    assert [each.last_sequence for each in page.executions] == [4, 0]


async def test_an_event_that_fails_alone_can_be_appended_again(log: SqliteEventLog) -> None:
    await log.append([execution("a")])
    await log.append([NewEvent("a", 1, b"<1>")])
    with pytest.raises(LogError):
        await log.append([NewEvent("a", 1, b"<twice>")])
    await log.append([NewEvent("a", 2, b"<2>")])
    assert (await log.read("a", 0, 100)).frames == b"<1><2>"


async def test_output_is_stored_once_in_a_file_and_comes_back_in_its_event(log: SqliteEventLog, tmp_path: Path) -> None:
    await log.append([execution("a"), NewEvent("a", 1, b"<call>", tool_call_id="call/../1")])
    await log.append([output_event("a", 2, "call/../1", b"one\0\xff"), output_event("a", 3, "call/../1", b"two")])
    await log.append([NewOutput("a", "call/../1", "stdout", b"late")])

    assert (await log.read("a", 1, 1 << 20)).frames == b"Hone\0\xffHtwo"
    assert await log.read_output("a", "call/../1", "stdout", 0, 100) == b"one\0\xfftwolate"
    assert await log.read_output("a", "call/../1", "stdout", 5, 3) == b"two"
    assert await log.read_output("a", "call/../1", "stderr", 0, 100) == b""
    assert await log.read_output("a", "another", "stdout", 0, 100) is None
    files = [path for path in (tmp_path / "state" / "outputs").rglob("*") if path.is_file()]
    assert [path.read_bytes() for path in files] == [b"one\0\xfftwolate"]
    assert b"two" not in (tmp_path / "state" / "events.db").read_bytes()


async def test_output_is_in_its_file_when_what_refers_to_it_is_committed(log: SqliteEventLog, tmp_path: Path) -> None:
    """Killed between the two, a call would have ended according to the journal, and its output would be lost."""
    await log.append([execution("a"), NewEvent("a", 1, b"<1>", tool_call_id="c")])
    at_commit: list[bytes] = []

    def trace(statement: str) -> None:
        if statement == "COMMIT":
            at_commit.extend(path.read_bytes() for path in tmp_path.glob("state/outputs/*/*.stdout"))

    log._writer.set_trace_callback(trace)
    output = NewEvent("a", 2, b"<2>", NewOutput("a", "c", "stdout", b"out"))
    await log.append([output, NewCall("a", "c", CallResult("msgpack", b"message", b"event"))])
    log._writer.set_trace_callback(None)
    assert at_commit == [b"out"]


async def test_a_batch_that_fails_leaves_nothing_behind_and_can_be_appended_again(log: SqliteEventLog) -> None:
    await log.append([execution("a"), NewEvent("a", 1, b"<1>", tool_call_id="call")])
    batch = [output_event("a", 2, "call", b"data"), NewEvent("a", 1, b"<twice>")]

    with pytest.raises(LogError):
        await log.append(batch)
    assert (await log.read("a", 0, 100)).frames == b"<1>"
    assert await log.read_output("a", "call", "stdout", 0, 100) == b""

    await log.append(batch[:1])
    assert (await log.read("a", 0, 100)).frames == b"<1>Hdata"


class ElsewhereOwned(SoleOwnership):
    """Ownership of a process that shares its storage with another one, which runs `ids`."""

    def __init__(self, *ids: str) -> None:
        self._ids = ids

    async def abandoned(self, execution_ids: Collection[str]) -> Collection[str]:
        return [each for each in execution_ids if each not in self._ids]


async def test_what_ran_when_the_service_died_is_interrupted_and_what_runs_elsewhere_is_not(tmp_path: Path) -> None:
    names = ("ran", "waited", "done", "elsewhere")
    async with sqlite_event_log(tmp_path) as log:
        await log.append([execution(name, state=event_pb2.STATE_RUNNING) for name in names if name != "waited"])
        await log.append([execution("waited"), ended("done")])
        key = log.fingerprint_key
    async with sqlite_event_log(tmp_path) as log:
        await interrupt_abandoned(log, ElsewhereOwned("elsewhere"))
        states = {name: stored.execution.state for name in names if (stored := await log.get(name))}
        assert log.fingerprint_key == key

    assert states == {
        "ran": event_pb2.STATE_INTERRUPTED,
        "waited": event_pb2.STATE_INTERRUPTED,
        "done": event_pb2.STATE_SUCCEEDED,
        "elsewhere": event_pb2.STATE_RUNNING,
    }


async def test_values_are_stored_with_an_execution_and_pruned_with_it(log: SqliteEventLog) -> None:
    await log.append([replace(execution("a"), values={"token": b"1", "other": b"x"}), execution("b")])
    await log.append([NewValue("b", "token", b"2"), NewValue("a", "other", b"y"), NewValue("b", "never", None)])
    assert await log.find_values("token") == {"a": b"1", "b": b"2"}
    assert await log.find_values("other") == {"a": b"y"}

    await log.append([NewValue("b", "token", None), ended("a")])
    assert await log.find_values("token") == {"a": b"1"}

    await log.prune(max_age=-1, max_bytes=1 << 30)
    assert await log.find_values("token") == {}


async def test_executions_are_listed_newest_first_page_by_page_with_filters(log: SqliteEventLog) -> None:
    await log.append([execution(f"e{n}", session="even" if n % 2 == 0 else "odd") for n in range(7)])
    await log.append([ended("e4")])

    first = await log.list_executions(ExecutionFilter(), limit=4)
    second = await log.list_executions(ExecutionFilter(), limit=4, before_key=first.next_key)
    even = await log.list_executions(ExecutionFilter(session_id=OwnerKey("even")), limit=9)
    finished = await log.list_executions(ExecutionFilter([event_pb2.STATE_SUCCEEDED]), limit=9)

    assert [e.execution_id for e in [*first.executions, *second.executions]] == [f"e{n}" for n in range(6, -1, -1)]
    assert second.next_key == 0
    assert [e.execution_id for e in even.executions] == ["e6", "e4", "e2", "e0"]
    assert [e.execution_id for e in finished.executions] == ["e4"]


async def test_a_running_execution_is_never_pruned(log: SqliteEventLog) -> None:
    await log.append([execution("running", state=event_pb2.STATE_RUNNING), execution("done")])
    await log.append([NewEvent("running", 1, b"x" * 1000), NewEvent("done", 1, b"x" * 1000), ended("done")])
    await asyncio.sleep(0.01)

    assert await log.prune(max_age=0.0, max_bytes=0) == 1
    assert await log.get("done") is None
    assert await log.get("running") is not None


async def test_pruning_by_size_takes_the_oldest_first_and_removes_their_output(
    log: SqliteEventLog, tmp_path: Path
) -> None:
    for name in ("old", "new"):
        await log.append([execution(name), NewEvent(name, 1, b"<call>", tool_call_id="call")])
        await log.append([output_event(name, 2, "call", b"x" * 300_000), ended(name)])
        await asyncio.sleep(0.01)

    assert await log.prune(max_age=3600.0, max_bytes=500_000) == 1
    assert await log.get("old") is None
    assert len(await log.read_output("new", "call", "stdout", 0, 1 << 20) or b"") == 300_000
    assert sum(path.stat().st_size for path in (tmp_path / "state" / "outputs").rglob("*.stdout")) == 300_000


async def add_large(log: SqliteEventLog, name: str) -> None:
    for sequence in range(1, 41):
        await log.append([*([execution(name)] if sequence == 1 else []), NewEvent(name, sequence, b"x" * 250_000)])
    await log.append([ended(name)])


async def test_the_others_go_on_while_a_large_execution_is_deleted(log: SqliteEventLog) -> None:
    """An append waits for one step of the deletion, not for all of them."""
    await add_large(log, "large")
    await log.append([execution("other")])
    deleting = asyncio.create_task(log.delete("large"))
    appended = 0
    while not deleting.done():
        appended += 1
        await log.append([NewEvent("other", appended, b"<x>")])
    assert await deleting
    assert appended > 10


async def test_what_a_killed_service_has_half_deleted_is_deleted_by_the_next(tmp_path: Path) -> None:
    def left() -> list[int]:
        with closing(sqlite3.connect(tmp_path / "events.db")) as connection:
            tables = ("events", "execution_values")
            return [connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0] for table in tables]

    async with sqlite_event_log(tmp_path) as log:
        await add_large(log, "large")
        deleting = asyncio.create_task(log.delete("large"))
        loop = asyncio.get_running_loop()

        def cancel_in_the_middle(statement: str) -> None:
            if statement.startswith("DELETE FROM events"):
                loop.call_soon_threadsafe(deleting.cancel)

        log._writer.set_trace_callback(cancel_in_the_middle)
        with pytest.raises(asyncio.CancelledError):
            await deleting
    assert left()[0] > 0
    assert left()[1] == 1
    async with sqlite_event_log(tmp_path) as log:
        assert await log.get("large") is None
        assert (await log.list_executions(ExecutionFilter(), limit=9)).executions == []
        await log.prune(max_age=3600.0, max_bytes=1 << 30)
    assert left() == [0, 0]


async def test_a_second_service_on_the_same_state_directory_is_refused(tmp_path: Path) -> None:
    async with sqlite_event_log(tmp_path):
        with pytest.raises(LogError, match="in use by another runner-service"):
            async with sqlite_event_log(tmp_path):
                pass
    async with sqlite_event_log(tmp_path):
        pass


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "one byte": lambda _: b"x",
    "its first byte": lambda whole: whole[:1],
    "100 bytes of something": lambda _: bytes(range(100)),
    "much of something": lambda _: b"this is not a database" * 1000,
    "its header": lambda whole: whole[:100],
    "half of it": lambda whole: whole[: len(whole) // 2],
    "all but a page": lambda whole: whole[:-4096],
    "all but a byte": lambda whole: whole[:-1],
}


@pytest.mark.parametrize("left", DAMAGES)
async def test_a_damaged_log_is_refused_with_the_next_move_and_left_as_it_is(tmp_path: Path, left: str) -> None:
    async with sqlite_event_log(tmp_path) as log:
        await log.append([execution("a"), *(NewEvent("a", n, b"x" * 5000) for n in range(1, 20))])
    file = tmp_path / "events.db"
    damaged = DAMAGES[left](file.read_bytes())
    file.write_bytes(damaged)

    with pytest.raises(LogError, match="move the directory away"):
        async with sqlite_event_log(tmp_path):
            pass
    assert file.read_bytes() == damaged


async def test_outputs_whose_log_is_gone_are_put_aside_and_mixed_with_nothing(tmp_path: Path) -> None:
    for text in (b"old", b"new"):
        async with sqlite_event_log(tmp_path) as log:
            await log.append([execution("a"), NewEvent("a", 1, b"<call>", tool_call_id="call")])
            await log.append([output_event("a", 2, "call", text)])
            assert await log.read_output("a", "call", "stdout", 0, 100) == text
        (tmp_path / "events.db").unlink()

    (kept,) = tmp_path.glob("outputs-without-log-*")  # noqa: ASYNC240  # nothing else runs
    assert [each.read_bytes() for each in kept.rglob("*.stdout")] == [b"old"]


async def test_the_database_of_another_program_is_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "events.db")) as other:
        other.execute("CREATE TABLE notes (text)")

    with pytest.raises(LogError, match="of another program"):
        async with sqlite_event_log(tmp_path):
            pass
    with closing(sqlite3.connect(tmp_path / "events.db")) as other:
        assert other.execute("SELECT name FROM sqlite_schema").fetchall() == [("notes",)]


async def test_a_log_whose_service_was_killed_before_it_wrote_anything_is_an_empty_one(tmp_path: Path) -> None:
    (tmp_path / "events.db").touch()

    async with sqlite_event_log(tmp_path) as log:
        await log.append([execution("a")])


async def test_a_file_that_was_cut_off_but_is_whole_in_its_write_ahead_log_is_read_from_there(tmp_path: Path) -> None:
    """As after a checkpoint that a full disk broke off in the middle of a page."""
    killed, copy = tmp_path / "killed", tmp_path / "copy"
    copy.mkdir()
    async with sqlite_event_log(killed) as log:
        await log.append([execution("a"), NewEvent("a", 1, b"x" * 5000)])
        for name in ("events.db", "events.db-wal"):
            (copy / name).write_bytes((killed / name).read_bytes())
    with (copy / "events.db").open("ab") as file:
        file.write(b"half a page")

    async with sqlite_event_log(copy) as log:
        assert (await log.read("a", 0, 100)).frames == b"x" * 5000


async def test_state_is_readable_by_its_owner_alone(log: SqliteEventLog, tmp_path: Path) -> None:
    await log.append(
        [execution("a"), NewEvent("a", 1, b"<call>", tool_call_id="c"), output_event("a", 2, "c", b"data")]
    )

    modes = {
        path.name: path.stat().st_mode & 0o077 for path in (tmp_path / "state").rglob("*") if "db-" not in path.name
    }

    assert (tmp_path / "state").stat().st_mode & 0o077 == 0
    assert set(modes.values()) == {0}, modes


async def test_reading_goes_on_while_the_log_is_written(log: SqliteEventLog) -> None:
    await log.append([execution("a")])

    async def write() -> None:
        for n in range(1, 101):
            await log.append([NewEvent("a", n, b"f")])

    async with asyncio.TaskGroup() as tasks:
        writing = tasks.create_task(write())
        seen = 0
        while seen < 100:
            seen = (await log.read("a", seen, 10)).last
    assert writing.done()


async def test_many_calls_keep_few_files_open(log: SqliteEventLog) -> None:
    before = open_files()
    await log.append([execution("a")])
    for n in range(1, 401, 2):
        await log.append([NewEvent("a", n, b"c", tool_call_id=f"c{n}"), output_event("a", n + 1, f"c{n}", b"data")])

    assert open_files() < before + 80
    assert await log.read_output("a", "c1", "stdout", 0, 10) == b"data"
