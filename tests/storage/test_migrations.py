"""State directories of earlier versions are upgraded and go on; those of later versions are refused.

`data/state-v1.tar.gz` was written by the version before this framework, which was then killed: a session of two
executions that have ended, and one execution that was interrupted between the results of two commands.
"""

import sqlite3
import tarfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from tests.running import StartService, command, kinds, one, stdout_of, turn

from runner_service.storage.event_log import LogError
from runner_service.storage.sqlite.event_log import sqlite_event_log
from runner_service.storage.sqlite.migrations import Schema, statements
from runner_service.storage.sqlite.schema import CHECKPOINTS, EVENTS
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

_STATE_V1 = Path(__file__).parent / "data" / "state-v1.tar.gz"
_FOREVER = str(1000 * 365 * 24 * 3600.0)
_WAIT = "until [ -e go ]; do sleep 0.02; done"


@pytest.fixture
def state_v1(tmp_path: Path) -> Path:
    with tarfile.open(_STATE_V1) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "state"


def version(file: Path) -> int:
    with closing(sqlite3.connect(file)) as connection:
        return int(connection.execute("PRAGMA user_version").fetchone()[0])


def values(state_dir: Path) -> list[tuple[str, str]]:
    query = "SELECT execution_id, name FROM execution_values JOIN executions ON key = execution"
    with closing(sqlite3.connect(state_dir / "events.db")) as connection:
        return connection.execute(query).fetchall()


async def test_an_execution_that_an_earlier_version_was_running_is_resumed(
    state_v1: Path, start: StartService, tmp_path: Path
) -> None:
    turns = [
        turn("Two at once.", command("echo one >> effects; echo the-result"), command(f"echo two >> effects; {_WAIT}")),
        turn("I was told: {{last_tool_result}}"),
    ]
    client = await start(turns, LOG_MAX_AGE=_FOREVER)
    assert await client.state("interrupted") == event_pb2.STATE_INTERRUPTED
    assert values(state_v1) == [("interrupted", "pending_report")]  # was a file
    assert not (state_v1 / "reports-owed").exists()
    page = await client.stub.ListExecutions(runner_pb2.ListExecutionsRequest(tenant="*"))
    assert {each.tenant for each in page.executions} == {"default"}
    others = (("x-runner-tenant", "acme"),)
    assert not (await client.stub.ListExecutions(runner_pb2.ListExecutionsRequest(), metadata=others)).executions

    events = await client.collect(client.stub.ExecuteAgent(runner_pb2.ExecuteAgentRequest(execution_id="interrupted")))

    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
    assert [event.started.resumed for event in events if event.HasField("started")] == [False, True]
    outcomes = [event.tool_call_finished.outcome for event in events if event.HasField("tool_call_finished")]
    assert outcomes == [event_pb2.TOOL_OUTCOME_SUCCEEDED, event_pb2.TOOL_OUTCOME_INTERRUPTED]
    assert kinds(events).count("tool_call_started") == 2
    assert stdout_of(events) == b"the-result\n"
    assert sorted((tmp_path / "workspace" / "effects").read_text().split()) == ["one", "two"]


async def test_a_session_of_an_earlier_version_keeps_its_conversation(state_v1: Path, start: StartService) -> None:
    client = await start([turn("one"), turn("two"), turn("three")], LOG_MAX_AGE=_FOREVER)

    events = await client.execute("again", session_id="session-of-before")

    assert one(events, "finished").output == "three"  # the scripted model counts the answers in the conversation
    replayed = await client.collect(client.stub.ExecuteAgent(runner_pb2.ExecuteAgentRequest(execution_id="s2")))
    assert one(replayed, "finished").output == "two"


async def test_a_state_directory_of_an_earlier_version_has_the_schema_of_a_new_one(
    state_v1: Path, start: StartService, tmp_path_factory: pytest.TempPathFactory
) -> None:
    client = await start([turn("one")], LOG_MAX_AGE=_FOREVER)
    await client.execute()
    await client.execute(session_id="new")
    new = tmp_path_factory.mktemp("new")
    client = await start(STATE_DIR=str(new))
    await client.execute()

    for file, schema in (("events.db", EVENTS), ("checkpoints.db", CHECKPOINTS)):
        assert version(state_v1 / file) == version(new / file) == len(schema.steps)
        assert _tables(state_v1 / file) == _tables(new / file)


def _tables(file: Path) -> dict[str, str]:
    with closing(sqlite3.connect(file)) as connection:
        rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL")
        return {name: " ".join(sql.replace("IF NOT EXISTS ", "").split()) for name, sql in rows}


async def test_a_log_of_a_newer_version_is_refused_with_what_to_do_and_left_as_it_is(tmp_path: Path) -> None:
    async with sqlite_event_log(tmp_path):
        pass
    with closing(sqlite3.connect(tmp_path / "events.db")) as connection:
        connection.execute("PRAGMA user_version = 99")

    with pytest.raises(LogError, match=r"schema version 99, .* start the newer runner-service that wrote it"):
        async with sqlite_event_log(tmp_path):
            pass
    assert version(tmp_path / "events.db") == 99


def _fail(*_: object) -> None:
    raise sqlite3.OperationalError("disk full")


@pytest.mark.parametrize("last", [_fail, statements("INSERT INTO missing VALUES (1)")])
def test_a_step_that_fails_leaves_the_file_at_its_version(tmp_path: Path, last: Callable[..., None]) -> None:
    first = statements("CREATE TABLE a (x); CREATE INDEX by_x ON a (x)")
    second = statements("ALTER TABLE a ADD COLUMN y; INSERT INTO a VALUES (1, 2)")
    with closing(sqlite3.connect(tmp_path / "file.db", isolation_level=None)) as connection:
        Schema([first]).upgrade(connection, tmp_path)
        with pytest.raises(sqlite3.Error):
            Schema([first, second, last]).upgrade(connection, tmp_path)
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        assert connection.execute("SELECT * FROM a").fetchall() == []

        Schema([first, second]).upgrade(connection, tmp_path)
        assert connection.execute("SELECT * FROM a").fetchall() == [(1, 2)]
    assert version(tmp_path / "file.db") == 2
