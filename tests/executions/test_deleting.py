"""What is deleted is gone: from the log, the disk and the conversation."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from tests.running import Client, StartService, command, stdout_of, text_of, turn

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

WORK = [turn("Now.", command("echo it > file; echo secret-of-the-session")), turn("You said: {{message}}")]


async def code_of(call: object) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await call  # type: ignore[misc]  # an awaitable call of whichever rpc
    return refused.value.code()


async def delete(client: Client, execution_id: str) -> None:
    await client.stub.DeleteExecution(runner_pb2.DeleteExecutionRequest(execution_id=execution_id))


def get(client: Client, execution_id: str) -> object:
    return client.stub.GetExecution(runner_pb2.GetExecutionRequest(execution_id=execution_id))


async def test_an_execution_is_deleted_with_its_output_and_its_id_can_be_used_again(
    start: StartService, tmp_path: Path
) -> None:
    client = await start(WORK)
    await client.execute(execution_id="a")
    assert list((tmp_path / "state" / "outputs").glob("*/*"))

    await delete(client, "a")

    assert await code_of(get(client, "a")) == grpc.StatusCode.NOT_FOUND
    assert await code_of(delete(client, "a")) == grpc.StatusCode.NOT_FOUND
    assert not list((tmp_path / "state" / "outputs").glob("*/*"))
    assert (tmp_path / "workspace" / "file").exists(), "the directory that all share is the user's"
    events = await client.execute("again", execution_id="a")
    assert events[0].sequence == 1
    assert "You said: again" in text_of(events)


async def test_an_execution_that_runs_is_refused_until_it_was_cancelled(start: StartService) -> None:
    client = await start([turn("Now.", command("echo here; sleep 60"))])
    call = client.stub.ExecuteAgent(client.request(execution_id="a"))
    await client.collect(call, until=lambda event: event.HasField("tool_output"))

    assert await code_of(delete(client, "a")) == grpc.StatusCode.FAILED_PRECONDITION

    await client.stub.CancelExecution(runner_pb2.CancelExecutionRequest(execution_id="a"))
    await client.collect(call)
    await delete(client, "a")


async def test_a_session_is_deleted_with_its_conversation_and_its_own_directory(
    start: StartService, tmp_path: Path
) -> None:
    client = await start(WORK, SANDBOX_SCOPE="session")
    for number in range(2):
        await client.execute(execution_id=f"a{number}", session_id="s")
    await client.execute(execution_id="b", session_id="other")
    assert (tmp_path / "workspace" / "s" / "file").exists()

    response = await client.stub.DeleteSession(runner_pb2.DeleteSessionRequest(session_id="s"))

    assert response.deleted_executions == 2
    assert await code_of(get(client, "a0")) == grpc.StatusCode.NOT_FOUND
    assert not (tmp_path / "workspace" / "s").exists()
    assert (tmp_path / "workspace" / "other" / "file").exists()
    again = runner_pb2.DeleteSessionRequest(session_id="s")
    assert await code_of(client.stub.DeleteSession(again)) == grpc.StatusCode.NOT_FOUND
    # The conversation begins anew: the script plays its first turn.
    events = await client.execute(execution_id="a2", session_id="s")
    assert b"secret-of-the-session" in stdout_of(events)
    assert events[-1].finished.state == event_pb2.STATE_SUCCEEDED


async def test_of_a_session_with_a_running_execution_nothing_is_deleted(start: StartService) -> None:
    client = await start([turn("Now.", command("{{message}}")), turn("Done.")])
    await client.execute("true", execution_id="a", session_id="s")
    call = client.stub.ExecuteAgent(client.request("echo here; sleep 60", execution_id="b", session_id="s"))
    await client.collect(call, until=lambda event: event.HasField("tool_output"))

    request = runner_pb2.DeleteSessionRequest(session_id="s")
    assert await code_of(client.stub.DeleteSession(request)) == grpc.StatusCode.FAILED_PRECONDITION

    assert await client.state("a") == event_pb2.STATE_SUCCEEDED
    call.cancel()


async def test_ids_that_are_none_are_refused(start: StartService) -> None:
    client = await start(WORK)
    assert await code_of(delete(client, "")) == grpc.StatusCode.INVALID_ARGUMENT
    empty = runner_pb2.DeleteSessionRequest()
    assert await code_of(client.stub.DeleteSession(empty)) == grpc.StatusCode.INVALID_ARGUMENT


def conversations(directory: Path) -> list[str]:
    with closing(sqlite3.connect(directory / "state" / "checkpoints.db")) as connection:
        return [name for (name,) in connection.execute("SELECT DISTINCT thread_id FROM checkpoints")]


async def test_a_conversation_goes_with_the_last_execution_of_its_session(
    start: StartService, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("runner_service.executions.background._CLEANUP_INTERVAL_SECONDS", 0.05)
    client = await start([turn("First."), turn("Second.")], LOG_MAX_AGE="1")
    assert "First." in text_of(await client.execute(session_id="s", execution_id="a"))
    assert conversations(tmp_path)
    async with asyncio.timeout(60):
        while conversations(tmp_path):
            await asyncio.sleep(0.02)
    assert await code_of(get(client, "a")) == grpc.StatusCode.NOT_FOUND
    # The script plays its first turn where the conversation is empty.
    assert "First." in text_of(await client.execute(session_id="s"))
