"""Frames: events as the wire bytes of one entry of `repeated ExecutionEvent events`."""

import time

from google.protobuf.message import Message

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


_SHORT_LENGTHS = tuple(_varint(number) for number in range(2048))
_TAG_OF_ENTRY = _varint(1 << 3 | _LENGTH_DELIMITED)
_TAG_OF_KIND: dict[type[Message], bytes] = {
    getattr(event_pb2, event.name): _varint(field.number << 3 | _LENGTH_DELIMITED)
    for field in event_pb2.ExecutionEvent.DESCRIPTOR.oneofs[0].fields
    if (event := field.message_type) is not None
}


class Framer:
    """Encodes the frames of one execution.

    Copying each event into a new outer message would cost three times as much. Instead one outer message is reused,
    only the fields that differ are set, and the event's own bytes are appended. The result is identical, since fields
    are written in the order of their numbers, and the event has the highest.
    """

    def __init__(self, execution_id: str) -> None:
        self._outer = event_pb2.ExecutionEvent(execution_id=execution_id)
        self._time = self._outer.create_time
        self._seconds, self._sub_agent_id = 0, ""

    def frame(self, sequence: int, event: Message, sub_agent_id: str = "") -> bytes:
        """Timestamps an event, one of the messages of `ExecutionEvent`'s oneof, and returns its frame."""
        seconds, nanos = divmod(time.time_ns(), 1_000_000_000)
        self._outer.sequence = sequence
        self._time.nanos = nanos
        if seconds != self._seconds:
            self._time.seconds = self._seconds = seconds
        if sub_agent_id != self._sub_agent_id:
            self._outer.sub_agent_id = self._sub_agent_id = sub_agent_id
        body = event.SerializeToString()
        inner = self._outer.SerializeToString() + _TAG_OF_KIND[type(event)] + _length(len(body)) + body
        return _TAG_OF_ENTRY + _length(len(inner)) + inner


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


def _length(number: int) -> bytes:
    return _SHORT_LENGTHS[number] if number < len(_SHORT_LENGTHS) else _varint(number)
