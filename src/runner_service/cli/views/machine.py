"""The views for programs: every event, or the answer alone."""

from typing import TextIO

from google.protobuf.json_format import MessageToJson

from runner_service.cli.exits import tell
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

    def note(self, text: str) -> None:
        """Tells something beside the events, on stderr."""
        tell(text)


class AnswerView:
    """Writes the final answer, and nothing else. Why there is none goes to stderr."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def show(self, event: event_pb2.ExecutionEvent) -> None:
        """Writes the answer, if this event has it."""
        if not event.HasField("finished"):
            return
        if event.finished.HasField("error"):
            error = event.finished.error
            tell(f"{error.code}: {printable(error.message)}")
        else:
            self._stream.write(f"{event.finished.output}\n")
            self._stream.flush()

    def note(self, text: str) -> None:
        """Tells something beside the events, on stderr."""
        tell(text)
