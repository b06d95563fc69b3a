"""How many bytes reports take, by the calculation that the reporter makes, over long runs that last no time."""

import pytest

from runner_service.stigmer.report_throttle import BREATH, Pace
from runner_service.stigmer.status import LISTS, StatusFold
from runner_service.stigmer.truncation import fitted
from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

Event = event_pb2.ExecutionEvent


def run_of(steps: int, *, text: int, result: int) -> list[Event]:
    """The events of an execution that says and does things by turns."""
    events = [Event(started=event_pb2.Started())]
    for step in range(steps):
        said = Event(text_delta=event_pb2.TextDelta(message_id=f"msg-{step}", text="some words "))
        events += [said] * text
        call = f"call-{step}"
        events.append(Event(tool_call_started=event_pb2.ToolCallStarted(tool_call_id=call, name="execute")))
        finished = event_pb2.ToolCallFinished(
            tool_call_id=call, outcome=event_pb2.TOOL_OUTCOME_SUCCEEDED, result="x" * result
        )
        events.append(Event(tool_call_finished=finished))
    events.append(Event(finished=event_pb2.Finished(state=event_pb2.STATE_SUCCEEDED)))
    return events


def status_of(fold: StatusFold) -> execution_pb2.AgentExecutionStatus:
    """What a report says."""
    return execution_pb2.AgentExecutionStatus.FromString(fold.report())


def bytes_sent(events: list[Event], seconds_between: float) -> tuple[int, int]:
    """What all reports of a run have, and what the last one has."""
    fold, pace, now = StatusFold("go"), Pace(), 0.0
    for event in events[:-1]:
        now += seconds_between
        fold.take(event)
        report = fold.size - sum(fold.sizes[name] for name in LISTS - fold.changed)
        if (fold.changed or fold.is_urgent) and pace.wait(report, fold.size, now, urgent=fold.is_urgent) == 0.0:
            pace.note(len(fold.report(fold.unchanged())), fold.size, now)
    fold.take(events[-1])
    last = len(fold.report())
    return pace.sent + last, last


@pytest.mark.parametrize("seconds", [0.001, 0.5, 30.0])
@pytest.mark.parametrize(("steps", "text", "result"), [(3, 2, 10), (300, 0, 0), (100, 30, 2000), (1, 5000, 0)])
def test_all_reports_stay_within_ten_times_the_last(steps: int, text: int, result: int, seconds: float) -> None:
    sent, last = bytes_sent(run_of(steps, text=text, result=result), seconds)

    assert sent <= 10 * last


def test_a_report_has_what_changed_since_the_last_one_and_nothing_that_was_discarded() -> None:
    events = run_of(20, text=3, result=50)
    whole, step_by_step = StatusFold("go"), StatusFold("go")
    for event in events:
        whole.take(event)
        step_by_step.take(event)
        step_by_step.report()  # keeps what it has encoded

    assert status_of(step_by_step) == status_of(whole)
    assert len(status_of(whole).tool_calls) == 20
    assert status_of(whole).messages[0].content == "go"


def test_the_estimate_of_the_size_is_close() -> None:
    fold = StatusFold("go")
    for event in run_of(50, text=20, result=500):
        fold.take(event)

    assert fold.size == pytest.approx(len(fold.report()), rel=0.25)


def test_what_matters_goes_at_once_while_there_is_room_and_soon_after() -> None:
    pace = Pace()
    assert pace.wait(100, 100, 0.0, urgent=True) == 0.0
    for _ in range(6):
        pace.note(100, 100, 10.0)
    assert pace.wait(100, 100, 10.5, urgent=True) == BREATH - 0.5
    pace.note(200, 100, 10.5)
    assert pace.wait(100, 100, 1000.0, urgent=True) is None
    assert pace.wait(100, 110, 1000.0, urgent=True) == 0.0


def test_text_alone_waits_longer() -> None:
    pace = Pace()
    pace.note(100, 1000, 0.0)
    assert pace.wait(1000, 1100, 0.5, urgent=False) == 4.5
    assert pace.wait(1000, 1300, 0.5, urgent=False) == 0.5


def test_a_discarded_message_is_forgotten() -> None:
    fold = StatusFold()
    fold.take(Event(text_delta=event_pb2.TextDelta(message_id="a", text="wrong")))
    fold.take(Event(message_discarded=event_pb2.MessageDiscarded(message_id="a")))
    fold.take(Event(text_delta=event_pb2.TextDelta(message_id="b", text="right")))

    assert [message.content for message in status_of(fold).messages] == ["right"]


def test_a_plan_keeps_the_times_of_what_has_not_changed() -> None:
    fold = StatusFold()
    todos = [event_pb2.Todo(content="one", status=event_pb2.Todo.STATUS_PENDING)]
    for seconds, status in ((1, event_pb2.Todo.STATUS_PENDING), (2, event_pb2.Todo.STATUS_COMPLETED)):
        todos[0].status = status
        event = Event(todos_updated=event_pb2.TodosUpdated(todos=todos))
        event.create_time.seconds = seconds
        fold.take(event)

    item = status_of(fold).todos["1"]
    assert (item.created_at, item.updated_at) == ("1970-01-01T00:00:01.000Z", "1970-01-01T00:00:02.000Z")


def test_a_status_that_is_too_large_loses_its_oldest_results_first() -> None:
    status = execution_pb2.AgentExecutionStatus(phase=execution_pb2.EXECUTION_COMPLETED)
    for number in range(10):
        status.tool_calls.add(id=str(number), result="x" * 1000)
    status.messages.add(content="y" * 1000)

    fits = fitted(status.SerializeToString(), 6000)
    assert len(fits) <= 6000
    kept = execution_pb2.AgentExecutionStatus.FromString(fits)
    assert len(kept.tool_calls) == 10
    assert len(kept.tool_calls[9].result) == 1000
    assert len(fitted(fits, 700)) <= 700
