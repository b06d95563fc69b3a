"""Replaces secrets by a mark, in whole values and in streams cut anywhere.

A secret is found in the forms that programs print it in (`forms`), with or without line ends within. A long one is also
found in part: its first 64 bytes, or any 1,100. A value of fewer than 6 bytes cannot be told from ordinary text and is
left alone, and so is a line of fewer than 16.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from runner_service.redaction.forms import ENCODING, MIN_SECRET_BYTES
from runner_service.redaction.matcher import Patterns, PatternSource
from runner_service.redaction.stream import MARK, SharedStreamRedactor, StreamRedactor
from runner_service.redaction.unbroken import without_line_ends

__all__ = ["MARK", "MIN_SECRET_BYTES", "Redactor", "StreamRedactor", "TextStreamRedactor"]

_MAX_SMALL_BYTES = 32 * 1024
_ITEM_BYTES = 64  # of text, which takes as long as an item of a list
_PIECE_BYTES = 64 * 1024  # between two of which other threads run


class Redactor:
    """Knows the secrets of one execution. Shows none of them, not even by `repr`.

    Without secrets every method returns its argument. With many, use `build`.
    """

    def __init__(self, secrets: Iterable[str] | Patterns) -> None:
        self.patterns = secrets if isinstance(secrets, Patterns) else Patterns.of(secrets)
        self._others: PatternSource | None = None

    @classmethod
    async def build(cls, secrets: Iterable[str]) -> "Redactor":
        """Builds a redactor in a thread."""
        return await asyncio.to_thread(cls, list(secrets))

    def copy(self) -> "Redactor":
        """Returns one that knows the same secrets, and shares no others."""
        return Redactor(self.patterns)

    def __repr__(self) -> str:
        return f"Redactor({len(self.patterns)} patterns)"

    def __bool__(self) -> bool:
        return bool(self.patterns) or self._others is not None

    @property
    def omitted_forms(self) -> int:
        """How many forms are not looked for, because there are too many."""
        return self.patterns.omitted

    def share(self, others: PatternSource) -> None:
        """From now on also looks for the patterns that `others` has at the time."""
        self._others = others

    def data(self, data: bytes) -> bytes:
        """Redacts bytes that are whole."""
        data = _redacted(self, data)
        return _redacted(self._others, data) if self._others else data

    @property
    def _finds_nothing(self) -> bool:
        """Whether there is nothing to look for now; what others share may come at any time."""
        return not self.patterns and not (self._others and self._others.patterns)

    def text(self, text: str) -> str:
        """Redacts a text that is whole. Takes long for a long one: see `any_value` and `beginning`."""
        if self._finds_nothing:
            return text
        data = text.encode(*ENCODING)
        redacted = self.data(data)
        return text if redacted is data else redacted.decode(*ENCODING)

    def beginning(self, text: str, max_characters: int) -> str:
        """Redacts the beginning of a text, however long that is; a secret that is cut there is not shown in part."""
        piece = text[: max_characters + _PIECE_BYTES]
        if len(piece) == len(text):
            return self.text(text)[:max_characters]
        return self.text_stream().feed(piece)[:max_characters]  # holds back what may begin a secret

    def value(self, value: Any) -> Any:
        """Redacts every string of a JSON-like value, names of fields included."""
        if self._finds_nothing:
            return value
        match value:
            case str():
                return self.text(value)
            case dict():
                return {self.value(name): self.value(item) for name, item in value.items()}
            case list() | tuple():
                return [self.value(item) for item in value]
            case _:
                return value

    async def any_value(self, value: Any) -> Any:
        """As `value`, in a thread unless the value is small: for what others send."""
        if self._finds_nothing or _is_small(value):
            return self.value(value)
        return await asyncio.to_thread(self.value, value)

    def stream(self) -> "StreamRedactor | SharedStreamRedactor":
        """Returns a redactor for a stream of bytes."""
        own = StreamRedactor(self)
        return SharedStreamRedactor(own, StreamRedactor(self._others)) if self._others else own

    def text_stream(self) -> "TextStreamRedactor":
        """Returns a redactor for a stream of text."""
        return TextStreamRedactor(self.stream() if self else None)


def _is_small(value: Any) -> bool:
    """Returns whether a JSON-like value is redacted in less than a millisecond."""
    size, waiting = 0, [value]
    while waiting and size <= _MAX_SMALL_BYTES:
        match waiting.pop():
            case str() as text:
                size += len(text)
            case dict() as fields:
                size += len(fields) * _ITEM_BYTES
                waiting += [*fields, *fields.values()] if size <= _MAX_SMALL_BYTES else ()
            case list() | tuple() as items:
                size += len(items) * _ITEM_BYTES
                waiting += items if size <= _MAX_SMALL_BYTES else ()
    return size <= _MAX_SMALL_BYTES


def _redacted(source: PatternSource, data: bytes) -> bytes:
    patterns = source.patterns
    if not patterns or (len(data) <= _PIECE_BYTES and not patterns.may_be_in(without_line_ends(data))):
        return data
    stream = StreamRedactor(source)
    pieces = (data[start : start + _PIECE_BYTES] for start in range(0, len(data), _PIECE_BYTES))
    redacted = b"".join([*map(stream.feed, pieces), stream.flush()])
    return data if redacted == data else redacted


class TextStreamRedactor:
    """Redacts a stream of text, as `StreamRedactor` does for bytes."""

    def __init__(self, stream: StreamRedactor | SharedStreamRedactor | None) -> None:
        self._stream = stream

    def feed(self, text: str) -> str:
        """Adds text; returns what can be passed on, perhaps nothing."""
        # A secret never begins or ends within a character, so the result can always be decoded.
        if not self._stream:
            return text
        data = text.encode(*ENCODING)
        ready = self._stream.feed(data)
        return text if ready is data else ready.decode(*ENCODING)

    def flush(self) -> str:
        """Ends the stream; returns what was held back."""
        return self._stream.flush().decode(*ENCODING) if self._stream else ""
