"""Reverts and the executions of a session: one at a time, and the conversation knows of them."""

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import grpc
import pytest
from tests.changes.repositories import repository
from tests.changes.test_reverting import revert
from tests.running import Client, StartService, command, one, turn

from runner_service.executions.sandbox_locks import SandboxLocks
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

TURNS = [turn("", command("echo {{message}} > a; until [ ! -e hold ]; do sleep 0.02; done")), turn("You: {{message}}")]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return repository(tmp_path / "work", {"a": b"1\n"})


async def test_nothing_is_put_back_while_another_execution_of_the_session_runs(start: StartService, root: Path) -> None:
    client = await start(TURNS, SANDBOX_ROOT_DIR=str(root))
    await client.execute("2", execution_id="first", session_id="s")
    (root / "hold").touch()
    call = client.stub.ExecuteAgent(client.request("3", execution_id="second", session_id="s"))
    await client.collect(call, until=lambda event: event.HasField("tool_call_started"))
    with pytest.raises(grpc.aio.AioRpcError, match="an execution of session s is running") as refused:
        await revert(client, "first")
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    (root / "hold").unlink()
    await client.collect(call)
    await revert(client, "second")
    assert (root / "a").read_text() == "2\n"
    await revert(client, "first")
    assert (root / "a").read_text() == "1\n"


def stored_notes(directory: Path) -> list[str]:
    """The executions whose reverts are noted for their session."""
    query = (
        "SELECT execution_id FROM execution_values JOIN executions ON key = execution WHERE name LIKE 'revert-note:%'"
    )
    with contextlib.closing(sqlite3.connect(directory / "state" / "events.db")) as connection:
        return [each for (each,) in connection.execute(query)]


async def start_and_revert(start: StartService, root: Path) -> Client:
    """Starts a service in which the first execution of the session `s` was reverted."""
    client = await start(TURNS, SANDBOX_ROOT_DIR=str(root))
    await client.execute("2", execution_id="first", session_id="s")
    await revert(client, "first")
    return client


async def test_the_next_message_of_the_session_names_the_files_and_only_the_next(
    start: StartService, root: Path, tmp_path: Path
) -> None:
    client = await start_and_revert(start, root)
    said = [
        one(await client.execute(text, session_id=session_id), "finished").output
        for text, session_id in (("3", "other"), ("4", "s"), ("5", "s"))
    ]
    assert said[0] == "You: 3"
    assert "files that you had changed were set back: a." in said[1]
    assert said[1].endswith("\n\n4")
    assert said[2] == "You: 5"
    assert stored_notes(tmp_path) == [], "the conversation has it"


async def test_a_message_that_failed_is_followed_by_no_second_note(
    start: StartService, root: Path, tmp_path: Path
) -> None:
    client = await start_and_revert(start, root)
    limits = runner_pb2.ExecutionLimits(max_model_calls=1)
    failed = one(await client.execute("3", session_id="s", limits=limits), "finished")
    assert failed.state == event_pb2.STATE_FAILED
    assert stored_notes(tmp_path) == ["first"], "whether the conversation has it is not known"
    assert one(await client.execute("4", session_id="s"), "finished").output == "You: 4"
    assert stored_notes(tmp_path) == []


async def test_who_has_the_files_of_a_session_keeps_the_next_waiting() -> None:
    locks, order = SandboxLocks(), []

    async def have(name: str, what: str) -> None:
        async with locks.held(name):
            order.append(what)
            await asyncio.sleep(0)
            order.append(what)

    await asyncio.gather(have("s", "run"), have("s", "revert"), have("other", "other"))
    assert [each for each in order if each != "other"] == ["run", "run", "revert", "revert"]
    assert not locks.is_held("s")
