"""A command that uses too much: an outcome of its call, which the model is told; nothing of it reaches the others."""

import sys

import pytest
from tests.running import StartService, command, one, stdout_of, turn

from runner_service.v1 import execution_event_pb2 as event_pb2

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits are in force on Linux only")

BOMB = "bomb() { [ $SECONDS -lt 10 ] && { bomb & bomb & }; wait; }; echo lit; bomb"


async def test_a_fork_bomb_is_an_outcome_of_its_call_and_the_model_goes_on(start: StartService) -> None:
    turns = [turn("", command(BOMB)), turn("", command("echo fine")), turn("It was a bomb.")]
    client = await start(turns, SANDBOX_MAX_PROCESSES="50")

    events = await client.execute()

    assert one(events, "started").sandbox.process_control.endswith("+watchdog")
    bomb, after = [each.tool_call_finished for each in events if each.HasField("tool_call_finished")]
    assert bomb.outcome == event_pb2.TOOL_OUTCOME_LIMIT_EXCEEDED
    assert bomb.killed_processes
    assert "more than 50 processes" in bomb.result
    assert "SANDBOX_MAX_PROCESSES" in bomb.result
    assert "Start fewer at once" in bomb.result
    assert after.outcome == event_pb2.TOOL_OUTCOME_SUCCEEDED
    assert stdout_of(events) == b"lit\nfine\n"
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED


async def test_what_a_command_left_running_is_ended_with_a_notice(start: StartService) -> None:
    many = "until [ -e go ]; do sleep 0.02; done; for i in $(seq 60); do sleep 30 & done; wait"
    left = f"({many}) > /dev/null 2>&1 & echo $! > pid"
    until_ended = "touch go; while kill -0 $(cat pid) 2> /dev/null; do sleep 0.05; done"
    turns = [turn("", command(left)), turn("", command(until_ended)), turn("Done.")]
    client = await start(turns, SANDBOX_MAX_PROCESSES="50")

    events = await client.execute()

    notice = one(events, "notice")
    assert (notice.code, notice.level) == ("LIMIT_EXCEEDED", event_pb2.Notice.LEVEL_INFO)
    assert "more than 50 processes" in notice.text
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
