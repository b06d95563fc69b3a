"""Events as lines, without a service."""

import io
from itertools import count
from typing import Any

import pytest

from runner_service.cli.views.lines import Fold, LineSplitter, printable
from runner_service.cli.views.plain import PlainView
from runner_service.cli.views.wording import seconds
from runner_service.v1 import execution_event_pb2 as event_pb2


class Story:
    """Events that are shown as they are told."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        self._view = PlainView(self._stream)
        self._sequence = count(1)

    def print_message(self, sub_agent_id: str = "", **event: Any) -> "Story":
        sequence = next(self._sequence)
        self._view.show(
            event_pb2.ExecutionEvent(execution_id="e", sequence=sequence, sub_agent_id=sub_agent_id, **event)
        )
        return self

    @property
    def lines(self) -> list[str]:
        return self._stream.getvalue().splitlines()


def _call(call_id: str, name: str, kind: "event_pb2.ToolKind.ValueType", **arguments: Any) -> event_pb2.ToolCallStarted:
    call = event_pb2.ToolCallStarted(tool_call_id=call_id, name=name, kind=kind)
    call.arguments.update(arguments)
    return call


def test_text_comes_as_whole_lines_however_it_is_cut() -> None:
    story = Story()
    for piece in ("Hel", "lo\nwor", "ld"):
        story.print_message(text_delta=event_pb2.TextDelta(message_id="m", text=piece))
    assert story.lines == ["Hello"]
    story.print_message(message_finished=event_pb2.MessageFinished(message_id="m"))
    assert story.lines == ["Hello", "world"]


def test_a_message_that_is_taken_back_before_it_was_shown_is_never_shown() -> None:
    story = Story()
    story.print_message(text_delta=event_pb2.TextDelta(message_id="m", text="never mind"))
    story.print_message(message_discarded=event_pb2.MessageDiscarded(message_id="m"))
    assert story.lines == []


def test_a_message_that_is_taken_back_after_it_was_shown_is_said_not_to_count() -> None:
    story = Story()
    story.print_message(text_delta=event_pb2.TextDelta(message_id="m", text="never mind\n"))
    story.print_message(message_discarded=event_pb2.MessageDiscarded(message_id="m"))
    assert story.lines[1].startswith("warning: the model call failed")


def test_parallel_calls_and_both_streams_are_told_apart() -> None:
    story = Story()
    for call_id in ("a", "b"):
        story.print_message(
            tool_call_started=_call(call_id, "execute", event_pb2.TOOL_KIND_EXECUTE, command=f"do {call_id}")
        )
    story.print_message(tool_output=event_pb2.ToolOutput(tool_call_id="a", stdout=b"from "))
    story.print_message(tool_output=event_pb2.ToolOutput(tool_call_id="b", stderr=b"oops\n"))
    story.print_message(tool_output=event_pb2.ToolOutput(tool_call_id="a", stdout=b"a\n"))
    assert story.lines == ["[1] $ do a", "[2] $ do b", "[2] ! oops", "[1] | from a"]


def test_a_sub_agent_and_one_within_it_have_their_labels_on_each_line() -> None:
    story = Story()
    story.print_message(
        sub_agent_started=event_pb2.SubAgentStarted(tool_call_id="t1", name="writer", description="Write.")
    )
    story.print_message(
        "t1", sub_agent_started=event_pb2.SubAgentStarted(tool_call_id="t2", name="reader", description="Read.")
    )
    story.print_message("t2", text_delta=event_pb2.TextDelta(message_id="m", text="I read.\n"))
    story.print_message(
        sub_agent_started=event_pb2.SubAgentStarted(tool_call_id="t3", name="writer", description="More.")
    )
    assert story.lines == [
        "[writer] begins: Write.",
        "[writer/reader] begins: Read.",
        "[writer/reader] I read.",
        "[writer#2] begins: More.",
    ]


def test_the_plan_shows_where_each_item_stands() -> None:
    todos = [
        event_pb2.Todo(content="one", status=event_pb2.Todo.STATUS_COMPLETED),
        event_pb2.Todo(content="two", status=event_pb2.Todo.STATUS_IN_PROGRESS),
        event_pb2.Todo(content="three", status=event_pb2.Todo.STATUS_PENDING),
    ]
    story = Story().print_message(tool_call_started=_call("c", "write_todos", event_pb2.TOOL_KIND_PLAN))
    story.print_message(todos_updated=event_pb2.TodosUpdated(todos=todos))
    assert story.lines == ["[1] plan:", "[1] [x] one", "[1] [>] two", "[1] [ ] three"]


def test_a_failed_tool_says_why_and_what_was_ended_with_it() -> None:
    story = Story()
    story.print_message(tool_call_started=_call("a", "read_file", event_pb2.TOOL_KIND_READ, file_path="/x y", limit=10))
    story.print_message(
        tool_call_finished=event_pb2.ToolCallFinished(
            tool_call_id="a",
            outcome=event_pb2.TOOL_OUTCOME_FAILED,
            result="no such\nfile",
            killed_processes=["7 sleep"],
        )
    )
    assert story.lines == ["[1] read_file /x y limit=10", "[1] = failed in 0 ms; no such file; killed with it: 7 sleep"]


def test_a_command_that_used_too_much_is_said_to_have() -> None:
    story = Story()
    story.print_message(tool_call_started=_call("a", "execute", event_pb2.TOOL_KIND_EXECUTE, command="bomb"))
    outcome = event_pb2.TOOL_OUTCOME_LIMIT_EXCEEDED
    story.print_message(tool_call_finished=event_pb2.ToolCallFinished(tool_call_id="a", outcome=outcome, exit_code=137))
    assert story.lines == ["[1] $ bomb", "[1] = limit exceeded in 0 ms"]


def test_kinds_of_events_that_are_not_known_are_ignored() -> None:
    assert Story().print_message().lines == []


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("10%\r50%\r100%\r", "100%"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;http://x\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("a\x07b\x08c\x00d\x9be", "abcde"),
        ("tab\tstays", "tab\tstays"),
        ("\u202egnirts", "gnirts"),
    ],
)
def test_a_line_keeps_what_can_be_read_and_nothing_else(written: str, shown: str) -> None:
    assert printable(written) == shown


def test_bytes_that_are_cut_within_a_character_are_whole_again() -> None:
    splitter, data = LineSplitter(), "grün\n".encode()
    assert [line for byte in data for line in splitter.feed(bytes([byte]))] == ["grün"]


def test_a_line_without_an_end_is_shown_in_parts_rather_than_kept() -> None:
    splitter = LineSplitter()
    shown = [line for _ in range(100) for line in splitter.feed(b"x" * 10_000)]
    assert sum(map(len, [*shown, *splitter.flush()])) == 1_000_000
    assert max(map(len, shown)) < 100_000


def test_a_fold_keeps_both_ends_and_counts_the_middle() -> None:
    fold = Fold(head=2, tail=3)
    for number in range(10):
        fold.add(str(number), "")
    assert [text for text, _ in fold.head] == ["0", "1"]
    assert [text for text, _ in fold.tail] == ["7", "8", "9"]
    assert fold.hidden == 5


@pytest.mark.parametrize(("value", "text"), [(0.0123, "12 ms"), (3.44, "3.4 s"), (306.2, "5 min 06 s")])
def test_lengths_of_time_have_the_precision_that_people_care_for(value: float, text: str) -> None:
    assert seconds(value) == text
