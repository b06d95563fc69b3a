"""Writes JSON text, and looks at it without parsing it, in linear time: counts values, finds the end of an object.

No other thread runs while a parser works, so values are counted first.
"""

import json
import re
from typing import Any

import orjson

MAX_VALUES = 50_000
"""Limit of values in one text of others: as many take some 20 ms to parse."""

_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_SEPARATORS = (b",", b"[", b"{")
_MARK = re.compile(r'\\.|[{}\[\]"]', re.DOTALL)


def has_too_many_values(data: bytes) -> bool:
    """Returns whether a JSON text has more than `MAX_VALUES` values. Lets other threads run."""
    if sum(map(data.count, _SEPARATORS)) <= MAX_VALUES:
        return False
    count = position = 0
    for number, string in enumerate(_STRING.finditer(data)):
        count += sum(data.count(each, position, string.start()) for each in _SEPARATORS)
        position = string.end()
        if max(count, number) > MAX_VALUES:
            return True
    return count + sum(data.count(each, position) for each in _SEPARATORS) > MAX_VALUES


class ObjectReader:
    """Tells where a JSON object ends that comes in parts. Reads each part once, and does not check the grammar."""

    def __init__(self) -> None:
        self._depth = 0
        self._is_in_string = False
        self._held = ""

    def feed(self, part: str) -> None:
        """Adds a part."""
        text = self._held + part
        backslashes = len(text) - len(text.rstrip("\\"))
        self._held = "\\" * (backslashes % 2)
        for mark in _MARK.findall(text):
            if mark == '"':
                self._is_in_string = not self._is_in_string
            elif not self._is_in_string:
                self._depth += 1 if mark in "{[" else -1 if mark in "}]" else 0

    @property
    def has_ended(self) -> bool:
        """Whether everything that was opened is closed."""
        return not (self._depth or self._is_in_string)


def encoded(value: Any) -> bytes:
    """Returns a value as JSON."""
    try:
        return orjson.dumps(value)
    except TypeError:  # integers of more than 64 bits and halves of surrogate pairs, from the tools of MCP servers
        return json.dumps(value).encode()
