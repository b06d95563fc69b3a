"""Splits streamed text into lines that are safe to print."""

import codecs
import re
from collections import deque
from collections.abc import Iterator

_MAX_LINE_LENGTH = 64 * 1024  # characters; a longer one is shown as several
_MAX_PARTIAL_LENGTH = 2000

# What could move the cursor, change colours or the reading direction. Tabs stay.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_FIRST_PRINTABLE, _DELETE = 0x20, 0x7F

_UNPRINTABLE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # control sequences
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # commands to the terminal, such as window titles
    r"|\x1b[@-_]"
    r"|[\x00-\x08\x0a-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)


def printable(text: str) -> str:
    """Returns a line without control sequences; of text overwritten by carriage returns, the last."""
    return _UNPRINTABLE.sub("", text.rstrip("\r").rpartition("\r")[2])


def visible(text: str) -> str:
    """Returns `text` with control characters in caret notation or as escapes, so that a terminal does not obey them."""
    return _CONTROL.sub(_shown, text)


def _shown(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < _FIRST_PRINTABLE:
        return f"^{chr(code + 64)}"
    return "^?" if code == _DELETE else f"\\u{code:04x}"


class LineSplitter:
    """Splits text or bytes (UTF-8; invalid bytes become U+FFFD) into lines."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pieces: list[str] = []
        self._size = 0

    def feed(self, piece: str | bytes) -> Iterator[str]:
        """Adds a piece, and yields the lines that it completes, without line ends."""
        text = self._decoder.decode(piece) if isinstance(piece, bytes) else piece
        *complete, rest = text.split("\n")
        for line in complete:
            yield printable("".join([*self._pieces, line]))
            self._pieces, self._size = [], 0
        self._pieces.append(rest)
        self._size += len(rest)
        if self._size > _MAX_LINE_LENGTH:
            yield from self.flush()

    def flush(self) -> Iterator[str]:
        """Yields the unfinished line, if any."""
        line = "".join([*self._pieces, self._decoder.decode(b"", final=True)])
        self._pieces, self._size = [], 0
        if line:
            yield printable(line)

    @property
    def partial(self) -> str:
        """The end of the unfinished line."""
        return printable("".join(self._pieces)[-_MAX_PARTIAL_LENGTH:])


class Fold:
    """The first and last of any number of lines, and how many are hidden between them."""

    def __init__(self, head: int, tail: int) -> None:
        self._head_size = head
        self.head: list[tuple[str, str]] = []
        """The first lines: text and style."""
        self.tail: deque[tuple[str, str]] = deque(maxlen=tail)
        """The last lines."""
        self.hidden = 0
        """How many lines are in neither."""

    def add(self, text: str, style: str) -> None:
        """Adds a line."""
        if len(self.head) < self._head_size:
            self.head.append((text, style))
            return
        self.hidden += len(self.tail) == self.tail.maxlen
        self.tail.append((text, style))
