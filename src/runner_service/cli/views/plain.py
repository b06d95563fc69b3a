"""The view for pipes and files: whole lines, in order, without colours. Its format is stable."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TextIO

from runner_service.cli.errors import print_message
from runner_service.cli.views.transcript import Kind, Line, Transcript
from runner_service.v1 import execution_event_pb2 as event_pb2

_INDENT = "  "
_MARKS = {
    Kind.REASONING: "~ ",
    Kind.STDOUT: "| ",
    Kind.STDERR: "! ",
    Kind.ADDED: "+ ",
    Kind.REMOVED: "- ",
    Kind.HIDDEN: "... ",
    Kind.RESULT: "= ",
    Kind.FAILURE: "= ",
    Kind.AGENT: "begins: ",
    Kind.FILE: "file: ",
    Kind.NOTE: "note: ",
    Kind.WARNING: "warning: ",
}


class PlainView:
    """Writes lines. The events up to `after` are read for context but not shown."""

    def __init__(self, stream: TextIO, after: int = 0) -> None:
        self._stream = stream
        self._after = after
        self._transcript = Transcript()

    def show(self, event: event_pb2.ExecutionEvent) -> None:
        """Writes what the event adds."""
        lines = list(self._transcript.lines(event))
        if event.sequence > self._after and lines:
            self._stream.write("".join(f"{text}\n" for line in lines for text in plain_lines(line)))
            self._stream.flush()

    def show_message(self, text: str) -> None:
        """Prints a message to stderr."""
        print_message(text)

    def paused(self) -> AbstractContextManager[None]:
        """Does nothing: whole lines disturb nobody."""
        return nullcontext()


def plain_lines(line: Line) -> Iterator[str]:
    """Yields a line with the marks that say what it is: `[agent] [number] mark text`, sub-agents indented."""
    indent = _INDENT * (line.agent.count("/") + 1) if line.agent else ""
    prefix = indent + (f"[{line.agent}] " if line.agent else "") + (f"[{line.call}] " if line.call else "")
    if line.kind is Kind.PLAN:
        for item in ["plan:", *line.text.splitlines()]:
            yield prefix + item
    else:
        yield prefix + _MARKS.get(line.kind, "") + line.text
