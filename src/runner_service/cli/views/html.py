"""The view as a page for a browser."""

from contextlib import AbstractContextManager, nullcontext
from typing import TextIO

from runner_service.cli.errors import print_message
from runner_service.v1 import execution_event_pb2 as event_pb2
from runner_service.web.html_file import html_file


class HtmlView:
    """Gathers the events, and writes them as one HTML file."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._events: list[event_pb2.ExecutionEvent] = []

    def show(self, event: event_pb2.ExecutionEvent) -> None:
        """Takes the event."""
        self._events.append(event)

    def write(self) -> None:
        """Writes the file."""
        execution_id = self._events[0].execution_id if self._events else ""
        self._stream.write(html_file(execution_id, self._events))

    def show_message(self, text: str) -> None:
        """Prints a message to stderr."""
        print_message(text)

    def paused(self) -> AbstractContextManager[None]:
        """Does nothing: nothing is shown yet."""
        return nullcontext()
