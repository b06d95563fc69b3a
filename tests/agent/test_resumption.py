"""What the log tells of the earlier runs of an execution."""

from pathlib import Path

from runner_service.agent.resume import read_resumption
from runner_service.storage.event_log import NewEvent, NewExecution, NewOutput
from runner_service.storage.sqlite.event_log import sqlite_event_log
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

OUTPUT = b"some output"


def stored(sequence: int, seconds: int, kind: str) -> NewEvent:
    event = event_pb2.ExecutionEvent(execution_id="a", sequence=sequence)
    event.create_time.FromSeconds(seconds)
    if kind == "tool_output":
        event.tool_output.stdout = OUTPUT
    elif kind == "tool_call_started":
        event.tool_call_started.tool_call_id = f"call-{sequence}"
    else:
        event.started.SetInParent()
    frame = runner_pb2.ExecuteAgentResponse(events=[event]).SerializeToString()
    if kind == "tool_output":
        output = NewOutput("a", f"call-{sequence - 1}", "stdout", OUTPUT)
        return NewEvent("a", sequence, frame.removesuffix(OUTPUT), output)
    return NewEvent("a", sequence, frame, tool_call_id=event.tool_call_started.tool_call_id)


async def test_the_time_until_the_last_output_of_each_run_counts(tmp_path: Path) -> None:
    run = ["started", "tool_call_started", "tool_output"]
    times = [0, 1, 9, 1000, 1001, 1021]
    events = [stored(number, *each) for number, each in enumerate(zip(times, run * 2, strict=True), start=1)]
    record = runner_pb2.Execution(execution_id="a", state=event_pb2.STATE_INTERRUPTED)
    async with sqlite_event_log(tmp_path) as log:
        await log.append([NewExecution(record, b"fingerprint"), *events])
        assert (await read_resumption(log, "a")).elapsed == 9 + 21
