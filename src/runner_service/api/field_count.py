"""Counts the fields of an encoded request, since parsing a few megabytes of tiny ones holds the event loop for long."""

from typing import Any

MAX_FIELDS = 20_000
"""Of a request that is large enough to be counted, in all its messages and maps."""

_UNCOUNTED_BYTES = 64 * 1024
_VARINT, _FIXED64, _LENGTH_DELIMITED, _FIXED32 = 0, 1, 2, 5
_MORE = 0x80
_SHIFTS = range(0, 70, 7)
_FIXED_BYTES = {_FIXED64: 8, _FIXED32: 4}


def has_too_many_fields(data: bytes, descriptor: Any) -> bool:
    """Whether a message has more than `MAX_FIELDS`, without parsing it; takes up to 20 ms. Bad bytes have none.

    `descriptor` is that of the message's class.
    """
    if len(data) <= _UNCOUNTED_BYTES:
        return False
    count = 0
    waiting = [(0, len(data), descriptor)]
    try:
        while waiting:
            position, end, kind = waiting.pop()
            fields = kind.fields_by_number
            while position < end:
                count += 1
                if count > MAX_FIELDS:
                    return True
                tag, position = _varint(data, position)
                wire_type = tag & 7
                if wire_type == _LENGTH_DELIMITED:
                    size, position = _varint(data, position)
                    field = fields.get(tag >> 3)
                    if field is not None and field.message_type is not None:
                        waiting.append((position, min(end, position + size), field.message_type))
                    position += size
                elif wire_type == _VARINT:
                    _, position = _varint(data, position)
                elif wire_type in _FIXED_BYTES:
                    position += _FIXED_BYTES[wire_type]
                else:  # groups, which no message of ours has
                    return False
    except IndexError:  # bad bytes: the parser says so
        return False
    return False


def _varint(data: bytes, position: int) -> tuple[int, int]:
    """Reads a number; returns it and the position behind it."""
    number = 0
    for shift in _SHIFTS:
        byte = data[position]
        position += 1
        number |= (byte & ~_MORE) << shift
        if byte < _MORE:
            return number, position
    raise IndexError("a varint of more than ten bytes")
