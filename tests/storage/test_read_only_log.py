"""What is read of an event log without a service."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from tests.storage.test_sqlite_event_log import ended, execution, output_event

from runner_service.storage.event_log import NewEvent, NewExecution, NewState
from runner_service.storage.execution_filter import ExecutionFilter
from runner_service.storage.frames import Framer
from runner_service.storage.sqlite.database import connect
from runner_service.storage.sqlite.event_log import SqliteEventLog, sqlite_event_log
from runner_service.storage.sqlite.read_only_log import UnreadableLogError, read_only_log
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[SqliteEventLog]:
    async with sqlite_event_log(tmp_path) as log:
        yield log


def text_event(name: str, sequence: int, text: str) -> NewEvent:
    return NewEvent(name, sequence, Framer(name).frame(sequence, event_pb2.TextDelta(text=text)))


async def test_a_log_that_nobody_holds_is_read_and_left_as_it_is(tmp_path: Path) -> None:
    async with sqlite_event_log(tmp_path) as log:
        await log.append([execution("one"), text_event("one", 1, "hello"), text_event("one", 2, "there"), ended("one")])
    before = _modification_times(tmp_path)

    with read_only_log(tmp_path, is_held=False) as reader:
        found = reader.get("one")
        assert found is not None
        assert found.state == event_pb2.STATE_SUCCEEDED
        assert found.last_sequence == 2
        assert [event.text_delta.text for event in reader.events("one", after=1)] == ["there"]
        assert reader.get("two") is None

    assert _modification_times(tmp_path) == before


async def test_what_a_service_is_writing_is_read_beside_it(log: SqliteEventLog, tmp_path: Path) -> None:
    running = NewState(runner_pb2.Execution(execution_id="one", state=event_pb2.STATE_RUNNING))
    await log.append([execution("one"), running, text_event("one", 1, "hello")])
    with read_only_log(tmp_path, is_held=True) as reader:
        assert [event.text_delta.text for event in reader.events("one")] == ["hello"]
        await log.append([text_event("one", 2, "there")])
        assert [event.text_delta.text for event in reader.events("one", after=1)] == ["there"]
        assert [each.state for each in reader.list(ExecutionFilter())] == [event_pb2.STATE_RUNNING]


async def test_what_ran_in_a_service_that_was_killed_counts_as_interrupted(log: SqliteEventLog, tmp_path: Path) -> None:
    await log.append([execution("one", state=event_pb2.STATE_RUNNING), execution("two"), ended("two")])
    with read_only_log(tmp_path, is_held=False) as reader:
        interrupted = ExecutionFilter([event_pb2.STATE_INTERRUPTED])
        assert [(each.execution_id, each.state) for each in reader.list(interrupted)] == [
            ("one", event_pb2.STATE_INTERRUPTED)
        ]
        assert list(reader.list(ExecutionFilter([event_pb2.STATE_RUNNING]))) == []


async def test_output_is_read_by_its_call(log: SqliteEventLog, tmp_path: Path) -> None:
    started = NewEvent("one", 1, b"", tool_call_id="call")
    await log.append([execution("one"), started, output_event("one", 2, "call", b"written")])
    with read_only_log(tmp_path, is_held=True) as reader:
        assert reader.read_output("one", "call", "stdout", 2, 100) == b"itten"
        assert reader.read_output("one", "other", "stdout", 0, 100) is None


@pytest.mark.parametrize("damage", ["format", "content", "missing"])
async def test_a_log_that_cannot_be_read_as_it_is_is_refused(tmp_path: Path, damage: str) -> None:
    async with sqlite_event_log(tmp_path):
        pass
    match damage:
        case "format":
            connection = connect(tmp_path / "events.db")
            connection.execute("PRAGMA user_version = 99")
            connection.close()
        case "content":
            (tmp_path / "events.db").write_bytes(b"not a database" * 100)
        case _:
            (tmp_path / "events.db").unlink()
    with pytest.raises(UnreadableLogError), read_only_log(tmp_path, is_held=False):
        pass


async def test_executions_are_found_by_labels_and_time(log: SqliteEventLog, tmp_path: Path) -> None:
    for number, labels in enumerate([{"team": "a"}, {"team": "b"}, {"team": "a", "ticket": "7"}], 1):
        record = runner_pb2.Execution(execution_id=str(number), labels=labels)
        record.create_time.seconds = number
        await log.append([NewExecution(record, b"print")])

    async def found(**conditions: object) -> list[str]:
        page = await log.list_executions(ExecutionFilter(**conditions), limit=10)  # type: ignore[arg-type]  # by name
        return [each.execution_id for each in page.executions]

    assert await found(labels={"team": "a"}) == ["3", "1"]
    assert await found(labels={"team": "a", "ticket": "7"}) == ["3"]
    assert await found(labels={"ticket": ""}) == []
    second = 2 * 10**9
    assert await found(created_after=second) == ["3", "2"]
    assert await found(created_before=second) == ["1"]
    assert await found(created_after=second, created_before=second + 1) == ["2"]
    with read_only_log(tmp_path, is_held=True) as reader:
        assert [each.execution_id for each in reader.list(ExecutionFilter(labels={"team": "a"}))] == ["3", "1"]


def _modification_times(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in directory.iterdir()}
