"""How many bytes the reports of one execution have, against a report for every ten events.

    python -m benchmarks.reporting

Nothing is sent: the events of a run are applied, and reports are built when the reporter would build them, by a clock
that moves on with the events.
"""

from collections.abc import Iterator
from typing import NamedTuple

from runner_service.stigmer.report_throttle import ReportThrottle
from runner_service.stigmer.status import LISTS, StatusBuilder
from runner_service.v1 import execution_event_pb2 as event_pb2

Event = event_pb2.ExecutionEvent

_EVERY = 10
_SECONDS_PER_EVENT = 0.02


class Run(NamedTuple):
    """A run: so many steps, each with so many pieces of text and a call with so long a result."""

    name: str
    steps: int
    pieces: int
    result: int


RUNS = (
    Run("an answer of 5,000 pieces", 1, 5000, 0),
    Run("20 calls, little text", 20, 10, 500),
    Run("200 calls, little text", 200, 10, 500),
    Run("200 calls, much text", 200, 100, 2000),
    Run("1,000 calls, no text", 1000, 0, 200),
)


def events_of(run: Run) -> Iterator[Event]:
    """The events of a run."""
    yield Event(started=event_pb2.Started())
    for step in range(run.steps):
        message = f"msg-{step}"
        for _ in range(run.pieces):
            yield Event(text_delta=event_pb2.TextDelta(message_id=message, text="a few words "))
        call = f"call-{step}"
        started = event_pb2.ToolCallStarted(tool_call_id=call, name="execute", kind=event_pb2.TOOL_KIND_EXECUTE)
        started.arguments["command"] = "make test"
        yield Event(tool_call_started=started)
        outcome = event_pb2.TOOL_OUTCOME_SUCCEEDED
        result = "x" * run.result
        yield Event(tool_call_finished=event_pb2.ToolCallFinished(tool_call_id=call, outcome=outcome, result=result))
    yield Event(finished=event_pb2.Finished(state=event_pb2.STATE_SUCCEEDED))


def throttled_reports(run: Run) -> tuple[int, int, int]:
    """How many reports there are, how many bytes they have, and how many the last of them."""
    builder, throttle, now, count = StatusBuilder("please"), ReportThrottle(), 0.0, 0
    for event in events_of(run):
        now += _SECONDS_PER_EVENT
        builder.apply_event(event)
        report = builder.size - sum(builder.sizes[name] for name in LISTS - builder.changed)
        if (builder.changed or builder.is_urgent) and throttle.delay_before(
            report, builder.size, now, urgent=builder.is_urgent
        ) == 0.0:
            throttle.record_report(len(builder.report(builder.clear_changes())), builder.size, now)
            count += 1
    last = len(builder.report())
    return count + 1, throttle.sent + last, last


def every_ten(run: Run) -> int:
    """How many bytes a whole status for every ten events would have."""
    builder, sent, number = StatusBuilder("please"), 0, 0
    for number, event in enumerate(events_of(run), start=1):
        builder.apply_event(event)
        if number % _EVERY == 0:
            sent += len(builder.report())
    return sent + (len(builder.report()) if number % _EVERY else 0)


def main() -> None:
    """Prints the table."""
    print("| run | last status | reports | bytes in all | times the last | every ten events |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for run in RUNS:
        count, sent, last = throttled_reports(run)
        old = every_ten(run) / last
        print(f"| {run.name} | {last:,} B | {count:,} | {sent:,} B | {sent / last:.1f} | {old:,.0f} |")


if __name__ == "__main__":
    main()
