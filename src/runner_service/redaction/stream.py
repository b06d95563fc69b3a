"""Redacts streams of bytes, however they are cut."""

from typing import TYPE_CHECKING

from runner_service.redaction.matcher import Match, PatternSource, Place, character_start, extended
from runner_service.redaction.unbroken import Unbroken, without_line_ends

if TYPE_CHECKING:
    from collections.abc import Sequence

MARK = "[redacted:secret]"
"""Replaces a secret."""

_MARK_BYTES = MARK.encode()
_MIN_BROKEN_BYTES = 16  # a shorter match is none if it has a line end within: lines of single digits are no secret
_MIN_HELD_BYTES = 8  # of what is held back when a line end follows, or the end of most lines would be late


class StreamRedactor:
    """Redacts a stream; holds back no more than what may be the beginning of a secret.

    The patterns of its source may change between two parts.
    """

    def __init__(self, source: PatternSource) -> None:
        self._source = source
        self._patterns = source.patterns
        self._held = b""
        self._released = 0  # so many bytes of what is held have been returned already
        self._continued: Sequence[Place] = ()

    def feed(self, data: bytes) -> bytes:
        """Adds bytes; returns those that can be passed on."""
        self._patterns = patterns = self._source.patterns
        if not (self._held or self._continued) and (not patterns or patterns.is_absent(without_line_ends(data))):
            return data
        return self._redacted(data, is_last=False)

    def flush(self) -> bytes:
        """Ends the stream; returns what was held back."""
        return self._redacted(b"", is_last=True) if self._held else b""

    def _redacted(self, data: bytes, *, is_last: bool) -> bytes:
        if self._continued:
            data = self._without_continuation(data)
            if self._continued and not is_last:
                return b""
        whole = Unbroken(self._held + data if self._held else data)
        done: list[bytes] = []
        position, tail = self._released, len(whole.text)
        if not is_last:
            tail = self._open_tail(whole, 0)  # a secret may begin in what has been returned already
        self._continued = ()
        for match in self._patterns.matches(whole.text):
            if tail <= match.start:  # a longer form that begins here, or earlier, may yet turn out to be meant
                break
            # What may be the beginning of a secret is held back in any case.
            end = whole.end(min(match.end, tail) if match.is_blanket else match.end)
            if end <= position or _is_broken(whole, match):
                continue
            done += (whole.original[position : whole.start(match.start)], _MARK_BYTES)
            position = end
            if match.continued and not is_last:
                self._continued = match.continued
                position, tail = len(whole.original), len(whole.text)
            elif tail < match.end and not match.is_blanket:
                tail = self._open_tail(whole, match.end)
        done.append(self._keep(whole, position, tail))
        return b"".join(done) if done[1:] else done[0]

    def _keep(self, whole: Unbroken, position: int, tail: int) -> bytes:
        """Holds the tail back; returns what is before it and was not returned yet."""
        start = whole.start(tail)
        self._held = whole.original[start:]
        self._released = max(0, position - start)
        if len(whole.text) - tail < _MIN_HELD_BYTES and len(self._held) > len(whole.text) - tail:
            self._released = len(self._held)
            start = len(whole.original)
        return whole.original[position:start] if position or start < len(whole.original) else whole.original

    def _open_tail(self, whole: Unbroken, index: int) -> int:
        return character_start(whole.text, self._patterns.open_tail(whole.text, index), index)

    def _without_continuation(self, data: bytes) -> bytes:
        """Drops what continues the long form that the last part ended with."""
        whole = Unbroken(data)
        match = extended(whole.text, 0, self._continued, 0)
        self._continued = match.continued if whole.text else self._continued
        return b"" if self._continued else data[whole.end(match.end) :]


class SharedStreamRedactor:
    """Redacts a stream with the secrets of its execution, then with those of others."""

    def __init__(self, own: StreamRedactor, others: StreamRedactor) -> None:
        self._own = own
        self._others = others

    def feed(self, data: bytes) -> bytes:
        """Adds bytes; returns those that can be passed on."""
        ready = self._own.feed(data)
        return self._others.feed(ready) if ready else ready

    def flush(self) -> bytes:
        """Ends the stream; returns what was held back."""
        return self._others.feed(self._own.flush()) + self._others.flush()


def _is_broken(whole: Unbroken, match: Match) -> bool:
    """Returns whether a short match spans a line end."""
    length = match.end - match.start
    return length < _MIN_BROKEN_BYTES and whole.end(match.end) - whole.start(match.start) > length
