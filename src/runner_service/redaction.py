"""Replaces secrets by a mark, in whole values and in streams cut anywhere.

A secret is found in the forms that programs print it in: as it is, in base64 (also inside of something longer), in
hexadecimal, URL-encoded and JSON-escaped; without the white space around it; with other line ends; each of its lines by
itself; and, where nothing stands before it, in base64 that is broken into lines. A value of fewer than 6 bytes cannot
be told from ordinary text and is left alone, and so is a line of fewer than 16.
"""

import base64
import json
import re
from collections.abc import Iterable
from itertools import islice
from typing import Any
from urllib.parse import quote, quote_plus

MARK = "[redacted:secret]"
"""What stands in place of a secret."""

MIN_SECRET_BYTES = 6
"""The shortest value that is redacted."""

_MIN_LINE_BYTES = 16  # of a secret that has several; shorter ones may be words, or brackets
_MAX_LINES = 128  # a key of 8192 bits has a hundred
_LINE_END = re.compile(r"\r\n|\n|\r|\\n")  # also those that JSON has escaped: programs print keys from within JSON
_BOUNDARY = re.compile(r"-----(BEGIN|END) [A-Z0-9 ]+-----")  # of PEM, which says what it is and no secret

_LEAD_BYTES = 4  # how many of a form are looked for at once; less than MIN_SECRET_BYTES
_MARK_BYTES = MARK.encode()
_BASE64_WIDTHS = (64, 76)  # of the lines that openssl, and base64, write
_ENCODING = ("utf-8", "surrogatepass")  # a model's JSON may hold half a surrogate pair


class Redactor:
    """Knows the secrets of one execution. Shows none of them, not even by `repr`.

    Without secrets every method returns what it was given.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        values = {form for secret in secrets for form in _values(secret)}
        forms = {form for value in values for form in _forms(value) if len(form) >= MIN_SECRET_BYTES}
        forms |= {line for value in values for line in _lines(value)}
        # Of two forms that match at the same place the longer one must win, or its end would stay.
        self._forms = sorted(forms, key=lambda form: (-len(form), form))
        self._pattern = re.compile(b"|".join(map(re.escape, self._forms)))
        self._beginnings = {form[:length] for form in forms for length in range(1, _LEAD_BYTES)}

    def __repr__(self) -> str:
        return f"Redactor({len(self._forms)} forms)"

    def __bool__(self) -> bool:
        return bool(self._forms)

    def data(self, data: bytes) -> bytes:
        """Redacts bytes that are whole."""
        return self._pattern.sub(_MARK_BYTES, data) if self.finds(data) else data

    def text(self, text: str) -> str:
        """Redacts a text that is whole."""
        if not self._forms:
            return text
        data = text.encode(*_ENCODING)
        return self.data(data).decode(*_ENCODING) if self.finds(data) else text

    def value(self, value: Any) -> Any:
        """Redacts every string of a JSON-like value, names of fields included."""
        if not self._forms:
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

    def stream(self) -> "StreamRedactor":
        """Begins a stream of bytes."""
        return StreamRedactor(self)

    def text_stream(self) -> "TextStreamRedactor":
        """Begins a stream of text."""
        return TextStreamRedactor(self)

    def finds(self, data: bytes) -> bool:
        """Tells whether there is anything to redact."""
        # One search per form beats one regular expression for all of them by a factor of 5 up to some hundred forms.
        return any(form in data for form in self._forms)

    def split(self, data: bytes) -> tuple[bytes, bytes]:
        """Redacts the beginning of a stream; returns it, and the rest that must wait for what follows.

        The rest is the longest tail that is the beginning of a secret and no end of one.
        """
        done: list[bytes] = []
        position = 0
        tail = self._open_tail(data, 0)
        for match in self._pattern.finditer(data) if self.finds(data) else ():
            if tail <= match.start():  # a longer form that begins here, or earlier, may yet turn out to be meant
                break
            done += (data[position : match.start()], _MARK_BYTES)
            position = match.end()
            if tail < position:
                tail = self._open_tail(data, position)
        if not done and tail == len(data):
            return data, b""
        done.append(data[position:tail])
        return b"".join(done), data[tail:]

    def _open_tail(self, data: bytes, position: int) -> int:
        """Where, from `position` on, a secret begins that goes on behind the end; the length of `data` if none does."""
        end = first = len(data)
        for form in self._forms:
            start = max(position, end - len(form) + 1) - 1
            while (start := data.find(form[:_LEAD_BYTES], start + 1, first + _LEAD_BYTES - 1)) >= 0:
                if form.startswith(data[start:]):
                    first = start
        if first < end:
            return first
        shorter = range(max(position, end - _LEAD_BYTES + 1), end)
        return next((start for start in shorter if data[start:] in self._beginnings), end)


class StreamRedactor:
    """Redacts a stream of bytes, however it is cut; holds back no more than what may be the beginning of a secret."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._held = b""

    def feed(self, data: bytes) -> bytes:
        """Takes the next bytes; returns those that can go on."""
        if not self._redactor:
            return data
        done, self._held = self._redactor.split(self._held + data if self._held else data)
        return done

    def flush(self) -> bytes:
        """Ends the stream; returns what was held back."""
        held, self._held = self._held, b""
        return self._redactor.data(held)


class TextStreamRedactor:
    """Redacts a stream of text, as `StreamRedactor` does for bytes."""

    def __init__(self, redactor: Redactor) -> None:
        self._active = bool(redactor)
        self._stream = redactor.stream()

    def feed(self, text: str) -> str:
        """Takes the next piece; returns what can go on, perhaps nothing."""
        # A secret never begins or ends within a character, so what comes back can always be decoded.
        return self._stream.feed(text.encode(*_ENCODING)).decode(*_ENCODING) if self._active else text

    def flush(self) -> str:
        """Ends the stream; returns what was held back."""
        return self._stream.flush().decode(*_ENCODING)


def _values(secret: str) -> set[str]:
    """The secret without what a shell's "$(cat key)" loses, and with the line ends that another system gives it."""
    values = {secret, secret.strip()}
    unix = {value.replace("\r\n", "\n") for value in values}
    return values | unix | {value.replace("\n", "\r\n") for value in unix}


def _lines(value: str) -> list[bytes]:
    """The lines of a value that has several, but for what says nothing."""
    lines = [line.strip() for line in _LINE_END.split(value)]
    telling = (line.encode(*_ENCODING) for line in lines if not _BOUNDARY.fullmatch(line))
    return list(islice((line for line in telling if len(line) >= _MIN_LINE_BYTES), _MAX_LINES)) if lines[1:] else []


def _forms(secret: str) -> set[bytes]:
    raw = secret.encode(*_ENCODING)
    if len(raw) < MIN_SECRET_BYTES:
        return set()
    escaped = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    quoted = {quote(raw), quote(raw, safe=""), quote_plus(raw)}
    quoted |= {re.sub("%..", lambda code: code[0].lower(), text) for text in quoted}
    written = {raw.hex().encode(), raw.hex().upper().encode()}
    return {raw, *written, *_base64_forms(raw), *(text.encode(*_ENCODING) for text in escaped | quoted)}


def _base64_forms(raw: bytes) -> set[bytes]:
    """The characters that depend on `raw` alone, for each of the three ways it can lie in something longer."""
    forms: set[bytes] = set()
    for before in range(3):
        whole = bytes(before) + raw
        inside = slice((before * 8 + 5) // 6, len(whole) * 8 // 6)
        forms |= {base64.b64encode(whole)[inside], base64.urlsafe_b64encode(whole)[inside]}
    alone = base64.b64encode(raw)[: len(raw) * 8 // 6]
    return forms | {_wrapped(alone, width) for width in _BASE64_WIDTHS}


def _wrapped(data: bytes, width: int) -> bytes:
    return b"\n".join(data[start : start + width] for start in range(0, len(data), width))
