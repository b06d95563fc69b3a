"""Status building and the report budget, over simulated runs."""

import pytest

from runner_service.stigmer.report_throttle import URGENT_INTERVAL_SECONDS, ReportThrottle
from runner_service.stigmer.status import LISTS, StatusBuilder
from runner_service.stigmer.truncation import MAX_STATUS_BYTES, fit_status
from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

Event = event_pb2.ExecutionEvent


def run_of(steps: int, *, text: int, result: int) -> list[Event]:
    """The events of an execution that says and does things by turns."""
    events = [Event(started=event_pb2.Started())]
    for step in range(steps):
        said = Event(text_delta=event_pb2.TextDelta(message_id=f"msg-{step}", text="some words "))
        events += [said] * text
        events.append(Event(message_finished=event_pb2.MessageFinished(message_id=f"msg-{step}")))
        call = f"call-{step}"
        events.append(Event(tool_call_started=event_pb2.ToolCallStarted(tool_call_id=call, name="execute")))
        finished = event_pb2.ToolCallFinished(
            tool_call_id=call, outcome=event_pb2.TOOL_OUTCOME_SUCCEEDED, result="x" * result
        )
        events.append(Event(tool_call_finished=finished))
    events.append(Event(finished=event_pb2.Finished(state=event_pb2.STATE_SUCCEEDED)))
    return events


def status_of(builder: StatusBuilder) -> execution_pb2.AgentExecutionStatus:
    """What a report says."""
    return execution_pb2.AgentExecutionStatus.FromString(builder.report())


def bytes_sent(events: list[Event], seconds_between: float) -> tuple[int, int]:
    """What all reports of a run have, and what the last one has."""
    builder, throttle, now = StatusBuilder("go"), ReportThrottle(), 0.0
    for event in events[:-1]:
        now += seconds_between
        builder.apply_event(event)
        report = builder.size - sum(builder.sizes[name] for name in LISTS - builder.changed)
        if (builder.changed or builder.is_urgent) and throttle.delay_before(
            report, builder.size, now, urgent=builder.is_urgent
        ) == 0.0:
            throttle.record_report(len(builder.report(builder.clear_changes())), builder.size, now)
    builder.apply_event(events[-1])
    last = len(builder.report())
    return throttle.sent + last, last


@pytest.mark.parametrize("seconds", [0.001, 0.5, 30.0])
@pytest.mark.parametrize(("steps", "text", "result"), [(3, 2, 10), (300, 0, 0), (100, 30, 2000), (1, 5000, 0)])
def test_all_reports_stay_within_ten_times_the_last(steps: int, text: int, result: int, seconds: float) -> None:
    sent, last = bytes_sent(run_of(steps, text=text, result=result), seconds)

    assert sent <= 10 * last


def test_a_report_has_what_changed_since_the_last_one_and_nothing_that_was_discarded() -> None:
    events = run_of(20, text=3, result=50)
    whole, step_by_step = StatusBuilder("go"), StatusBuilder("go")
    for event in events:
        whole.apply_event(event)
        step_by_step.apply_event(event)
        step_by_step.report()  # keeps what it has encoded

    assert status_of(step_by_step) == status_of(whole)
    assert len(status_of(whole).tool_calls) == 20
    assert status_of(whole).messages[0].content == "go"


def test_the_estimate_of_the_size_is_close() -> None:
    builder = StatusBuilder("go")
    for event in run_of(50, text=20, result=500):
        builder.apply_event(event)

    assert builder.size == pytest.approx(len(builder.report()), rel=0.25)


def test_what_matters_goes_at_once_while_there_is_room_and_soon_after() -> None:
    throttle = ReportThrottle()
    assert throttle.delay_before(100, 100, 0.0, urgent=True) == 0.0
    for _ in range(6):
        throttle.record_report(100, 100, 10.0)
    assert throttle.delay_before(100, 100, 10.5, urgent=True) == URGENT_INTERVAL_SECONDS - 0.5
    throttle.record_report(200, 100, 10.5)
    assert throttle.delay_before(100, 100, 1000.0, urgent=True) is None
    assert throttle.delay_before(100, 110, 1000.0, urgent=True) == 0.0


def test_text_alone_waits_longer() -> None:
    throttle = ReportThrottle()
    throttle.record_report(100, 1000, 0.0)
    assert throttle.delay_before(1000, 1100, 0.5, urgent=False) == 4.5
    assert throttle.delay_before(1000, 1300, 0.5, urgent=False) == 0.5


def text_delta(message: str, text: str) -> Event:
    return Event(text_delta=event_pb2.TextDelta(message_id=message, text=text))


def finished_message(message: str) -> Event:
    return Event(message_finished=event_pb2.MessageFinished(message_id=message))


def test_a_discarded_message_is_left_out() -> None:
    builder = StatusBuilder()
    for event in (
        text_delta("a", "wrong"),
        Event(message_discarded=event_pb2.MessageDiscarded(message_id="a")),
        text_delta("b", "right"),
        finished_message("b"),
    ):
        builder.apply_event(event)

    assert [message.content for message in status_of(builder).messages] == ["right"]


def test_a_message_is_in_the_status_once_it_is_complete_or_the_execution_has_ended() -> None:
    builder = StatusBuilder()
    builder.apply_event(text_delta("a", "half"))
    assert not status_of(builder).messages

    builder.apply_event(Event(finished=event_pb2.Finished(state=event_pb2.STATE_CANCELLED)))
    assert [message.content for message in status_of(builder).messages] == ["half"]


@pytest.mark.parametrize(
    ("kind", "component"),
    [
        ("EXECUTE", "terminal"),
        ("WRITE", "editor"),
        ("READ", "filesystem"),
        ("SEARCH", "filesystem"),
        ("SUB_AGENT", "subagent"),
        ("OTHER", "tool"),
    ],
)
def test_a_tool_has_the_component_type_that_the_daemon_knows(kind: str, component: str) -> None:
    builder = StatusBuilder()
    started = event_pb2.ToolCallStarted(tool_call_id="c", name="t", kind=event_pb2.ToolKind.Value(f"TOOL_KIND_{kind}"))
    builder.apply_event(Event(tool_call_started=started))

    assert status_of(builder).tool_calls[0].component_metadata.component_type == component


def test_a_plan_keeps_the_times_of_what_has_not_changed() -> None:
    builder = StatusBuilder()
    todos = [event_pb2.Todo(content="one", status=event_pb2.Todo.STATUS_PENDING)]
    for seconds, status in ((1, event_pb2.Todo.STATUS_PENDING), (2, event_pb2.Todo.STATUS_COMPLETED)):
        todos[0].status = status
        event = Event(todos_updated=event_pb2.TodosUpdated(todos=todos))
        event.create_time.seconds = seconds
        builder.apply_event(event)

    item = status_of(builder).todos["1"]
    assert (item.created_at, item.updated_at) == ("1970-01-01T00:00:01.000Z", "1970-01-01T00:00:02.000Z")


def test_a_status_that_is_too_large_loses_its_oldest_results_first() -> None:
    status = execution_pb2.AgentExecutionStatus(phase=execution_pb2.EXECUTION_COMPLETED)
    for number in range(10):
        status.tool_calls.add(id=str(number), result="x" * 1000)
    status.messages.add(content="y" * 1000)

    fits = fit_status(status.SerializeToString(), 6000)
    assert len(fits) <= 6000
    kept = execution_pb2.AgentExecutionStatus.FromString(fits)
    assert len(kept.tool_calls) == 10
    assert len(kept.tool_calls[9].result) == 1000
    assert kept.messages[0].content == "y" * 1000


@pytest.mark.parametrize("limit", [100, 700, 3000, 40_000])
def test_whatever_is_large_in_a_status_it_fits(limit: int) -> None:
    status = execution_pb2.AgentExecutionStatus(phase=execution_pb2.EXECUTION_FAILED, error="e" * 50)
    for number in range(200):
        status.tool_calls.add(id=f"call-{number}" * 5, name="execute", error="failed", result="ä" * 200)
        status.messages.add(content="ö" * 500)
        status.sub_agent_executions.add(id="s" * 20, input="in" * 100, output="out" * 100)
        status.todos[str(number)].content = "to do" * 100
    status.tool_calls[0].args["command"] = "a" * 5000

    encoded = fit_status(status.SerializeToString(), limit)

    assert len(encoded) <= limit
    assert execution_pb2.AgentExecutionStatus.FromString(encoded).error == "e" * 50


def test_a_large_status_is_truncated_in_a_time_that_grows_with_its_size() -> None:
    status = execution_pb2.AgentExecutionStatus()
    for number in range(30_000):
        status.tool_calls.add(id=f"call-{number}", result="x" * 200)

    assert len(fit_status(status.SerializeToString())) <= MAX_STATUS_BYTES  # quadratic, it would take a minute
