"""A defect of the one task that writes the log."""

import sqlite3
from contextlib import closing
from pathlib import Path

import grpc
import pytest
from tests.running import StartProcess, command, one, turn

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

INTERNAL_ERROR = 70


async def test_a_defect_of_the_log_writer_ends_the_service_and_the_next_one_resumes(
    start_process: StartProcess, tmp_path: Path
) -> None:
    """The row of a call is taken away below the writer, which no full or broken disk does."""
    until_told = "until [ -e go ]; do sleep 0.05; done"
    turns = [
        turn("", command(f"echo up; if mkdir first 2> error; then exit; fi; {until_told}; echo more")),
        turn("Done."),
    ]
    service = await start_process(turns)
    await service.client.execute(execution_id="first")
    call = service.stub.ExecuteAgent(service.client.request(execution_id="a"))
    await service.client.collect(call, until=lambda event: event.HasField("tool_output"))
    # A deletion makes the writer look up anew what it remembered of calls.
    await service.stub.DeleteExecution(runner_pb2.DeleteExecutionRequest(execution_id="first"))
    with closing(sqlite3.connect(tmp_path / "state" / "events.db")) as log, log:
        log.execute("DELETE FROM tool_calls")

    (tmp_path / "workspace" / "go").touch()

    with pytest.raises(grpc.aio.AioRpcError) as broken:
        await service.client.collect(call)
    assert broken.value.code() == grpc.StatusCode.UNAVAILABLE
    assert await service.ended() == INTERNAL_ERROR
    successor = await start_process()
    assert await successor.client.state("a") == event_pb2.STATE_INTERRUPTED
    events = await successor.client.collect(
        successor.stub.ExecuteAgent(runner_pb2.ExecuteAgentRequest(execution_id="a"))
    )
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
