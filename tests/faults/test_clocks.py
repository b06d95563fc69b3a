"""Clocks that jump: what is counted is never negative, and never ends anything too early."""

from pathlib import Path

from runner_service.agent.resume import read_resumption
from runner_service.storage.event_log import NewEvent, NewExecution
from runner_service.storage.sqlite.event_log import sqlite_event_log
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2


def frame(sequence: int, seconds: int, *, begins: bool = False) -> bytes:
    event = event_pb2.ExecutionEvent(execution_id="a", sequence=sequence)
    event.create_time.FromSeconds(seconds)
    if begins:
        event.started.SetInParent()
    else:
        event.notice.SetInParent()
    return runner_pb2.ExecuteAgentResponse(events=[event]).SerializeToString()


async def test_a_clock_that_is_set_back_takes_no_time_back(tmp_path: Path) -> None:
    times = [(1_000, True), (1_002, False), (400, False), (403, False), (10, True), (11, False)]
    record = runner_pb2.Execution(execution_id="a", state=event_pb2.STATE_INTERRUPTED)
    async with sqlite_event_log(tmp_path) as log:
        events = [
            NewEvent("a", number, frame(number, seconds, begins=begins))
            for number, (seconds, begins) in enumerate(times, start=1)
        ]
        await log.append([NewExecution(record, b"fingerprint"), *events])

        assert (await read_resumption(log, "a")).elapsed == 2 + 3 + 1
