"""An agent that goes round in circles is told once, then ended; one that gets somewhere is left alone."""

import pytest
from tests.running import StartService, one, turn

from runner_service.agent.tools.loop_detector import LoopDetector
from runner_service.errors import RepetitionEnd
from runner_service.v1 import execution_event_pb2 as event_pb2


def test_the_same_call_with_the_same_result_is_told_once_and_then_ended() -> None:
    detector = LoopDetector(10)

    told = [detector.observe_call("execute", {"command": "true"}, "ok") for _ in range(9)]

    assert told == [False, False, True, *[False] * 6]
    with pytest.raises(RepetitionEnd, match="10 calls in a row"):
        detector.observe_call("execute", {"command": "true"}, "ok")


def test_an_agent_that_polls_is_left_alone() -> None:
    detector = LoopDetector(3)

    assert not any(detector.observe_call("execute", {"command": "sleep 5; ls"}, "", 5.1) for _ in range(100))
    assert not any(detector.observe_call("execute", {"command": "ls"}, "", 0.1) for _ in range(1))


def test_two_calls_in_turn_are_a_circle_too() -> None:
    detector = LoopDetector(4)
    for n in range(4):
        detector.observe_call("execute", {"command": f"{n % 2}"}, "ok")

    with pytest.raises(RepetitionEnd):
        detector.observe_call("execute", {"command": "1"}, "ok")


def test_a_result_that_changes_is_news() -> None:
    detector = LoopDetector(2)

    assert not any(detector.observe_call("execute", {"command": "date"}, str(n)) for n in range(100))


def test_work_in_between_is_news() -> None:
    detector = LoopDetector(3)

    for n in range(20):
        assert not detector.observe_call("edit_file", {"old_string": str(n)}, "done")
        detector.observe_call("execute", {"command": "make test"}, "1 failed")


def test_zero_allows_any_number() -> None:
    detector = LoopDetector(0)

    assert not any(detector.observe_call("ls", {}, "") for _ in range(1000))


async def test_the_model_is_told_and_the_execution_ends_with_a_clear_account(start: StartService) -> None:
    same = ("ls", {"path": "/"})  # is never as slow as polling
    turns = [turn("", same) for _ in range(3)] + [turn("{{last_tool_result}}", same)]
    client = await start(turns + [turn("", same) for _ in range(9)], MAX_REPEATED_CALLS="5")

    events = await client.execute()

    finished = one(events, "finished")
    assert finished.state == event_pb2.STATE_FAILED
    assert finished.error.code == "LOOP_DETECTED"
    assert finished.usage.tool_calls == 5
    assert "try something else" in "".join(event.text_delta.text for event in events)
