"""Replaces secrets by a mark, in whole values and in streams cut anywhere.

A secret is found in the forms that programs print it in (`forms`), with or without line ends within. A long one is also
found in part: its first 64 bytes, or any 1,100. A value of fewer than 6 bytes cannot be told from ordinary text and is
left alone, and so is a line of fewer than 16.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from runner_service.redaction.forms import ENCODING, MIN_SECRET_BYTES, forms_of
from runner_service.redaction.matcher import Patterns
from runner_service.redaction.stream import MARK, StreamRedactor
from runner_service.redaction.unbroken import without_line_ends

__all__ = ["MARK", "MIN_SECRET_BYTES", "Redactor", "StreamRedactor", "TextStreamRedactor"]


class Redactor:
    """Knows the secrets of one execution. Shows none of them, not even by `repr`.

    Without secrets every method returns its argument. With many, use `build`.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = (form for secret in secrets for form in forms_of(secret) if len(form) >= MIN_SECRET_BYTES)
        self._patterns = Patterns(forms)

    @classmethod
    async def build(cls, secrets: Iterable[str]) -> "Redactor":
        """Builds a redactor in a thread."""
        return await asyncio.to_thread(cls, list(secrets))

    def __repr__(self) -> str:
        return f"Redactor({len(self._patterns)} patterns)"

    def __bool__(self) -> bool:
        return bool(self._patterns)

    @property
    def omitted_forms(self) -> int:
        """How many forms are not looked for, because there are too many."""
        return self._patterns.omitted

    def data(self, data: bytes) -> bytes:
        """Redacts bytes that are whole."""
        if not self._patterns or not self._patterns.may_be_in(without_line_ends(data)):
            return data
        stream = self.stream()
        return stream.feed(data) + stream.flush()

    def text(self, text: str) -> str:
        """Redacts a text that is whole."""
        if not self._patterns:
            return text
        data = text.encode(*ENCODING)
        redacted = self.data(data)
        return text if redacted is data else redacted.decode(*ENCODING)

    def value(self, value: Any) -> Any:
        """Redacts every string of a JSON-like value, names of fields included."""
        if not self._patterns:
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

    def stream(self) -> StreamRedactor:
        """Returns a redactor for a stream of bytes."""
        return StreamRedactor(self._patterns)

    def text_stream(self) -> "TextStreamRedactor":
        """Returns a redactor for a stream of text."""
        return TextStreamRedactor(self.stream() if self._patterns else None)


class TextStreamRedactor:
    """Redacts a stream of text, as `StreamRedactor` does for bytes."""

    def __init__(self, stream: StreamRedactor | None) -> None:
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
