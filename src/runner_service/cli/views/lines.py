"""Text that comes in pieces, as lines that are safe to print."""

import codecs
import re
from collections import deque
from collections.abc import Iterator

_LONGEST_LINE = 64 * 1024  # characters; a longer one is shown as several
_SHOWN_PARTIAL = 2000

# Whatever could move the cursor, change colours or turn the reading direction. Tabs stay.
_UNPRINTABLE = re.compile(
    r"\x1b\[[0-?]*[ -/]*[@-~]"  # control sequences
    r"|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)"  # commands to the terminal, such as window titles
    r"|\x1b[@-_]"
    r"|[\x00-\x08\x0a-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]"
)


def printable(text: str) -> str:
    """Returns a line without what would do something to the terminal; of what carriage returns overwrite, the last."""
    return _UNPRINTABLE.sub("", text.rstrip("\r").rpartition("\r")[2])


class LineCutter:
    """Makes lines of text or bytes (UTF-8; what is not becomes U+FFFD)."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._pieces: list[str] = []
        self._size = 0

    def feed(self, piece: str | bytes) -> Iterator[str]:
        """Takes the next piece, and yields the lines that it completes, without their ends."""
        text = self._decoder.decode(piece) if isinstance(piece, bytes) else piece
        *complete, rest = text.split("\n")
        for line in complete:
            yield printable("".join([*self._pieces, line]))
            self._pieces, self._size = [], 0
        self._pieces.append(rest)
        self._size += len(rest)
        if self._size > _LONGEST_LINE:
            yield from self.flush()

    def flush(self) -> Iterator[str]:
        """Yields the last line, if it has not ended yet."""
        line = "".join([*self._pieces, self._decoder.decode(b"", final=True)])
        self._pieces, self._size = [], 0
        if line:
            yield printable(line)

    @property
    def partial(self) -> str:
        """The end of the line that has not ended yet."""
        return printable("".join(self._pieces)[-_SHOWN_PARTIAL:])


class Fold:
    """The first and the last of any number of items, and how many are between them."""

    def __init__(self, head: int, tail: int) -> None:
        self._head_size = head
        self.head: list[tuple[str, str]] = []
        """The first lines: text and style."""
        self.tail: deque[tuple[str, str]] = deque(maxlen=tail)
        """The last lines."""
        self.hidden = 0
        """How many lines are in neither."""

    def add(self, text: str, style: str) -> None:
        """Takes the next line."""
        if len(self.head) < self._head_size:
            self.head.append((text, style))
            return
        self.hidden += len(self.tail) == self.tail.maxlen
        self.tail.append((text, style))
