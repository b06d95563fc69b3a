"""Events as lines, without a service."""

import io
from itertools import count
from typing import Any

import pytest

from runner_service.cli.views.lines import Fold, LineSplitter, printable, visible
from runner_service.cli.views.plain import PlainView
from runner_service.cli.views.wording import seconds
from runner_service.v1 import execution_event_pb2 as event_pb2


class Story:
    """Events that are shown as they are told."""

    def __init__(self) -> None:
        self._stream = io.StringIO()
        self._view = PlainView(self._stream)
        self._sequence = count(1)

    def show(self, sub_agent_id: str = "", **event: Any) -> "Story":
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
        story.show(text_delta=event_pb2.TextDelta(message_id="m", text=piece))
    assert story.lines == ["Hello"]
    story.show(message_finished=event_pb2.MessageFinished(message_id="m"))
    assert story.lines == ["Hello", "world"]


def test_a_message_that_is_taken_back_before_it_was_shown_is_never_shown() -> None:
    story = Story()
    story.show(text_delta=event_pb2.TextDelta(message_id="m", text="never mind"))
    story.show(message_discarded=event_pb2.MessageDiscarded(message_id="m"))
    assert story.lines == []


def test_a_message_that_is_taken_back_after_it_was_shown_is_said_not_to_count() -> None:
    story = Story()
    story.show(text_delta=event_pb2.TextDelta(message_id="m", text="never mind\n"))
    story.show(message_discarded=event_pb2.MessageDiscarded(message_id="m"))
    assert story.lines[1].startswith("warning: the model call failed")


def test_parallel_calls_and_both_streams_are_told_apart() -> None:
    story = Story()
    for call_id in ("a", "b"):
        story.show(tool_call_started=_call(call_id, "execute", event_pb2.TOOL_KIND_EXECUTE, command=f"do {call_id}"))
    story.show(tool_output=event_pb2.ToolOutput(tool_call_id="a", stdout=b"from "))
    story.show(tool_output=event_pb2.ToolOutput(tool_call_id="b", stderr=b"oops\n"))
    story.show(tool_output=event_pb2.ToolOutput(tool_call_id="a", stdout=b"a\n"))
    assert story.lines == ["[1] $ do a", "[2] $ do b", "[2] ! oops", "[1] | from a"]


def test_a_sub_agent_and_one_within_it_have_their_labels_on_each_line() -> None:
    story = Story()
    story.show(sub_agent_started=event_pb2.SubAgentStarted(tool_call_id="t1", name="writer", description="Write."))
    story.show("t1", sub_agent_started=event_pb2.SubAgentStarted(tool_call_id="t2", name="reader", description="Read."))
    story.show("t2", text_delta=event_pb2.TextDelta(message_id="m", text="I read.\n"))
    story.show(sub_agent_started=event_pb2.SubAgentStarted(tool_call_id="t3", name="writer", description="More."))
    assert story.lines == [
        "  [writer] begins: Write.",
        "    [writer/reader] begins: Read.",
        "    [writer/reader] I read.",
        "  [writer#2] begins: More.",
    ]


def test_the_plan_shows_where_each_item_stands() -> None:
    todos = [
        event_pb2.Todo(content="one", status=event_pb2.Todo.STATUS_COMPLETED),
        event_pb2.Todo(content="two", status=event_pb2.Todo.STATUS_IN_PROGRESS),
        event_pb2.Todo(content="three", status=event_pb2.Todo.STATUS_PENDING),
    ]
    story = Story().show(tool_call_started=_call("c", "write_todos", event_pb2.TOOL_KIND_PLAN))
    story.show(todos_updated=event_pb2.TodosUpdated(todos=todos))
    assert story.lines == ["[1] plan:", "[1] [x] one", "[1] [>] two", "[1] [ ] three"]


def test_a_failed_tool_says_why_and_what_was_ended_with_it() -> None:
    story = Story()
    story.show(tool_call_started=_call("a", "read_file", event_pb2.TOOL_KIND_READ, file_path="/x y", limit=10))
    story.show(
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
    story.show(tool_call_started=_call("a", "execute", event_pb2.TOOL_KIND_EXECUTE, command="bomb"))
    outcome = event_pb2.TOOL_OUTCOME_LIMIT_EXCEEDED
    story.show(tool_call_finished=event_pb2.ToolCallFinished(tool_call_id="a", outcome=outcome, exit_code=137))
    assert story.lines == ["[1] $ bomb", "[1] = limit exceeded in 0 ms"]


def test_kinds_of_events_that_are_not_known_are_ignored() -> None:
    assert Story().show().lines == []


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


def _write(name: str, **arguments: str) -> Story:
    story = Story()
    story.show(started=event_pb2.Started(sandbox=event_pb2.SandboxInfo(root="/home/you/work")))
    story.show(tool_call_started=_call("c", name, event_pb2.TOOL_KIND_WRITE, **arguments))
    done = event_pb2.ToolCallFinished(tool_call_id="c", outcome=event_pb2.TOOL_OUTCOME_SUCCEEDED)
    return story.show(tool_call_finished=done)


def test_an_edit_shows_what_it_changed_and_where() -> None:
    story = _write("edit_file", file_path="/src/a.py", old_string="keep\nold\nkeep", new_string="keep\nnew\nkeep")
    assert story.lines[1:] == [
        "[1] edit_file /home/you/work/src/a.py",
        "[1] - old",
        "[1] + new",
        "[1] = done in 0 ms",
    ]


def test_a_new_file_shows_its_lines_and_of_a_long_one_the_first() -> None:
    story = _write("write_file", file_path="/home/you/work/long", content="\n".join(map(str, range(100))))
    assert story.lines[1] == "[1] write_file /home/you/work/long"
    assert story.lines[2:4] == ["[1] + 0", "[1] + 1"]
    assert story.lines[-2] == "[1] ... 60 more lines changed"


def test_an_edit_that_would_take_long_to_compare_is_shown_as_a_whole() -> None:
    # Each line is a little like each other line: to pair them all takes minutes.
    old, new = ("\n".join(f"{number % 7}{'ab' * 100}{number * start}" for number in range(3000)) for start in (1, 7919))
    story = _write("edit_file", file_path="/a", old_string=f"keep\n{old}", new_string=f"keep\n{new}")
    assert story.lines[2].startswith("[1] - 1ababab")
    assert story.lines[-2] == "[1] ... 5,958 more lines changed"


def test_an_edit_that_failed_shows_no_change_and_the_whole_point_of_its_error() -> None:
    story = Story()
    call = _call("c", "edit_file", event_pb2.TOOL_KIND_WRITE, file_path="/a", old_string="x", new_string="y")
    story.show(tool_call_started=call)
    failed = event_pb2.ToolCallFinished(
        tool_call_id="c", outcome=event_pb2.TOOL_OUTCOME_FAILED, result=f"Error: {'x' * 600} was not found"
    )
    story.show(tool_call_finished=failed)
    assert len(story.lines) == 2
    assert story.lines[1].endswith("x was not found")


def test_control_characters_are_shown_and_not_obeyed() -> None:
    assert visible("a\x1b[2Jb\tc\r\n\x7f\x9b\u202e") == "a^[[2Jb\tc^M\n^?\\u009b\\u202e"
