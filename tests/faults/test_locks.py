"""Another program holds the service's files for a while, as a backup may."""

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from tests.running import StartService, command, one, stdout_of, turn

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2


@contextmanager
def held(file: Path) -> Iterator[None]:
    with closing(sqlite3.connect(file, timeout=5)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        yield


@pytest.mark.parametrize("name", ["events.db", "checkpoints.db"])
async def test_a_locked_database_holds_up_its_execution_and_nothing_is_lost(
    start: StartService, tmp_path: Path, name: str
) -> None:
    client = await start([turn("", command("echo before")), turn("", command("echo after")), turn("Done.")])
    await client.execute(execution_id="first")

    with held(tmp_path / "state" / name):
        running = asyncio.create_task(client.execute(execution_id="second"))
        # Meanwhile the service answers: what waits for the lock waits beside the event loop.
        # It is held for ten times as long as the execution would take, and less than the service waits.
        release_time = time.monotonic() + 0.7
        while time.monotonic() < release_time:
            async with asyncio.timeout(5):
                await client.stub.ListExecutions(runner_pb2.ListExecutionsRequest())
            await asyncio.sleep(0.05)
        assert not running.done()
    events = await running

    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
    assert stdout_of(events) == b"before\nafter\n"
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
