"""Frames: events as the wire bytes of one entry of `repeated ExecutionEvent events`."""

from collections.abc import Callable
from time import time_ns

from google.protobuf.message import Message

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

_MORE = 0x80
_LENGTH_DELIMITED = 2


def _varint(number: int) -> bytes:
    encoded = bytearray()
    while number >= _MORE:
        encoded.append(number % _MORE | _MORE)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


_NANOSECONDS = 1_000_000_000
_TAG_OF_ENTRY = _varint(1 << 3 | _LENGTH_DELIMITED)
_SHORT = 2048
_SHORT_LENGTHS = tuple(_varint(number) for number in range(_SHORT))
_SHORT_ENTRIES = tuple(_TAG_OF_ENTRY + length for length in _SHORT_LENGTHS)
_TAG_OF_KIND: dict[type[Message], bytes] = {
    getattr(event_pb2, event.name): _varint(field.number << 3 | _LENGTH_DELIMITED)
    for field in event_pb2.ExecutionEvent.DESCRIPTOR.oneofs[0].fields
    if (event := field.message_type) is not None
}


TextKind = type[event_pb2.TextDelta] | type[event_pb2.ReasoningDelta]

_TEXT_FIELDS: dict[TextKind, str] = {event_pb2.TextDelta: "text_delta", event_pb2.ReasoningDelta: "reasoning_delta"}
_MAX_REUSED_CHARACTERS = 4096


class _Header:
    """Number and time of a message that is reused: only what differs is set. `clock` is as of `Framer`."""

    def __init__(self, event: event_pb2.ExecutionEvent, clock: Callable[[], int]) -> None:
        self._event = event
        self._time = event.create_time
        self._clock = clock
        self._second = 0
        """Unix time of the second that is set, in nanoseconds."""

    def set(self, sequence: int) -> None:
        """Numbers the event, and gives it the time of the clock."""
        self._event.sequence = sequence
        nanos = self._clock() - self._second
        if not 0 <= nanos < _NANOSECONDS:
            seconds, nanos = divmod(nanos + self._second, _NANOSECONDS)
            self._time.seconds, self._second = seconds, seconds * _NANOSECONDS
        self._time.nanos = nanos


class Framer:
    """Encodes the frames of one execution. `clock` gives Unix time in nanoseconds.

    Copying each event into a new outer message would cost three times as much. Instead one outer message is reused,
    only the fields that differ are set, and the event's own bytes are appended. The result is identical, since fields
    are written in the order of their numbers, and the event has the highest.
    """

    def __init__(self, execution_id: str, clock: Callable[[], int] = time_ns) -> None:
        self._outer = event_pb2.ExecutionEvent(execution_id=execution_id)
        self._header = _Header(self._outer, clock)
        self._sub_agent_id = ""

    def frame(self, sequence: int, event: Message, sub_agent_id: str = "") -> bytes:
        """Timestamps an event, one of the messages of `ExecutionEvent`'s oneof, and returns its frame."""
        self._header.set(sequence)
        if sub_agent_id != self._sub_agent_id:
            self._outer.sub_agent_id = self._sub_agent_id = sub_agent_id
        body = event.SerializeToString()
        size = len(body)
        length = _SHORT_LENGTHS[size] if size < _SHORT else _varint(size)
        inner = self._outer.SerializeToString() + _TAG_OF_KIND[type(event)] + length + body
        size = len(inner)
        return (_SHORT_ENTRIES[size] if size < _SHORT else _TAG_OF_ENTRY + _varint(size)) + inner


class TextFramer:
    """Encodes the pieces of one text of the model as `Framer` would, in half the time.

    The whole response is reused, since only text, number and time differ.
    """

    def __init__(
        self,
        execution_id: str,
        kind: TextKind,
        message_id: str,
        sub_agent_id: str = "",
        *,
        clock: Callable[[], int] = time_ns,
    ) -> None:
        self._execution_id = execution_id
        self._field = _TEXT_FIELDS[kind]
        self._message_id = message_id
        self._sub_agent_id = sub_agent_id
        self._clock = clock
        self._room = 0

    def frame(self, sequence: int, text: str) -> bytes:
        """Timestamps a piece and returns its frame. Raises UnicodeEncodeError for lone surrogates."""
        if self._room <= 0:
            self._renew()
        self._room -= len(text)
        self._piece.text = text
        self._header.set(sequence)
        return self._response.SerializeToString()

    def _renew(self) -> None:
        """Makes the response anew: protobuf frees the texts that it has had with the response only."""
        self._response = runner_pb2.ExecuteAgentResponse()
        event = self._response.events.add(execution_id=self._execution_id, sub_agent_id=self._sub_agent_id)
        self._header = _Header(event, self._clock)
        self._piece: event_pb2.TextDelta | event_pb2.ReasoningDelta = getattr(event, self._field)
        self._piece.message_id = self._message_id
        self._room = _MAX_REUSED_CHARACTERS


def skip_frames(frames: bytes, count: int) -> bytes:
    """Drops the first `count` of concatenated frames."""
    position = 0
    for _ in range(count):
        position += len(_TAG_OF_ENTRY)
        length = shift = 0
        while (byte := frames[position]) & _MORE:
            length |= (byte ^ _MORE) << shift
            shift += 7
            position += 1
        position += 1 + (length | byte << shift)
    return frames[position:]
