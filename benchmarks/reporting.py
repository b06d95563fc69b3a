"""How many bytes the reports of one execution have, against a report for every ten events.

    python -m benchmarks.reporting

Nothing is sent: the events of a run are folded, and reports are made when the reporter would make them, by a clock that
moves on with the events.
"""

from collections.abc import Iterator
from typing import NamedTuple

from runner_service.stigmer.report_throttle import Pace
from runner_service.stigmer.status import LISTS, StatusFold
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


def reported(run: Run) -> tuple[int, int, int]:
    """How many reports there are, how many bytes they have, and how many the last of them."""
    fold, pace, now, count = StatusFold("please"), Pace(), 0.0, 0
    for event in events_of(run):
        now += _SECONDS_PER_EVENT
        fold.take(event)
        report = fold.size - sum(fold.sizes[name] for name in LISTS - fold.changed)
        if (fold.changed or fold.is_urgent) and pace.wait(report, fold.size, now, urgent=fold.is_urgent) == 0.0:
            pace.note(len(fold.report(fold.unchanged())), fold.size, now)
            count += 1
    last = len(fold.report())
    return count + 1, pace.sent + last, last


def every_ten(run: Run) -> int:
    """How many bytes a whole status for every ten events would have."""
    fold, sent, number = StatusFold("please"), 0, 0
    for number, event in enumerate(events_of(run), start=1):
        fold.take(event)
        if number % _EVERY == 0:
            sent += len(fold.report())
    return sent + (len(fold.report()) if number % _EVERY else 0)


def main() -> None:
    """Prints the table."""
    print("| run | last status | reports | bytes in all | times the last | every ten events |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for run in RUNS:
        count, sent, last = reported(run)
        old = every_ten(run) / last
        print(f"| {run.name} | {last:,} B | {count:,} | {sent:,} B | {sent / last:.1f} | {old:,.0f} |")


if __name__ == "__main__":
    main()
