"""The views for programs: every event as JSON, or the answer alone."""

from contextlib import AbstractContextManager, nullcontext
from typing import TextIO

from google.protobuf.json_format import MessageToJson

from runner_service.cli.errors import print_message
from runner_service.cli.views.lines import printable
from runner_service.v1 import execution_event_pb2 as event_pb2


class JsonView:
    """Writes each event as a line of JSON, with the names of the proto."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, event: event_pb2.ExecutionEvent) -> None:
        """Writes the event."""
        line = MessageToJson(event, preserving_proto_field_name=True, indent=None, ensure_ascii=False)
        self._stream.write(f"{line}\n")
        self._stream.flush()

    def show_message(self, text: str) -> None:
        """Prints a message to stderr."""
        print_message(text)

    def paused(self) -> AbstractContextManager[None]:
        """Does nothing: whole lines disturb nobody."""
        return nullcontext()


class AnswerView:
    """Writes the final answer only; an error goes to stderr."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, event: event_pb2.ExecutionEvent) -> None:
        """Writes the answer, if this event has it."""
        if not event.HasField("finished"):
            return
        if event.finished.HasField("error"):
            error = event.finished.error
            print_message(f"{error.code}: {printable(error.message)}")
        else:
            self._stream.write(f"{event.finished.output}\n")
            self._stream.flush()

    def show_message(self, text: str) -> None:
        """Prints a message to stderr."""
        print_message(text)

    def paused(self) -> AbstractContextManager[None]:
        """Does nothing: whole lines disturb nobody."""
        return nullcontext()
