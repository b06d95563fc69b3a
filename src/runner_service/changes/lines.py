"""Lines of texts that were changed: counts and unified diffs, in bounded time."""

import difflib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_MAX_COMPARED_LINES = 1500
_BINARY_SAMPLE_BYTES = 8000
_NO_NEWLINE = "\\ No newline at end of file\n"


class LineCounts(NamedTuple):
    """How many lines were added and removed; `is_binary` if either side is not text."""

    added: int
    removed: int
    is_binary: bool


def is_binary(data: bytes) -> bool:
    """Returns whether a content is not text, as git decides it."""
    return b"\0" in data[:_BINARY_SAMPLE_BYTES]


def count_lines(before: bytes, after: bytes) -> LineCounts:
    """Counts changed lines. In large changes a line that was moved counts as unchanged."""
    if is_binary(before) or is_binary(after):
        return LineCounts(0, 0, is_binary=True)
    start, old, new, _ = _middle(before.splitlines(keepends=True), after.splitlines(keepends=True))
    del start
    if max(len(old), len(new)) > _MAX_COMPARED_LINES:
        gone, come = Counter(old), Counter(new)
        return LineCounts((come - gone).total(), (gone - come).total(), is_binary=False)
    kept = sum(block.size for block in difflib.SequenceMatcher(None, old, new, autojunk=False).get_matching_blocks())
    return LineCounts(len(new) - kept, len(old) - kept, is_binary=False)


def unified_diff(before: bytes, after: bytes, context: int) -> Iterator[str]:
    """Yields the hunks of a diff, line by line, without a header. What is not UTF-8 becomes U+FFFD."""
    start, old, new, rest = _middle(_text_lines(before), _text_lines(after))
    if max(len(old), len(new)) > _MAX_COMPARED_LINES:
        yield from _one_hunk(start, old, new)
        return
    head = min(context, len(start))
    lead, tail = list(start[len(start) - head :]), list(rest[:context])
    offset = len(start) - head
    lines = difflib.unified_diff([*lead, *old, *tail], [*lead, *new, *tail], n=context)
    for line in list(lines)[2:]:
        yield from _complete(_shifted(line, offset) if line.startswith("@@") else line)


def _text_lines(data: bytes) -> list[str]:
    return [line.decode("utf-8", "replace") for line in data.splitlines(keepends=True)]


def _middle(old: Sequence, new: Sequence) -> tuple[Sequence, Sequence, Sequence, Sequence]:  # type: ignore[type-arg]
    """Returns the common lines at the start, what differs of both, and the common lines at the end."""
    shorter = min(len(old), len(new))
    head = next((index for index in range(shorter) if old[index] != new[index]), shorter)
    most = shorter - head
    tail = next((index for index in range(most) if old[-1 - index] != new[-1 - index]), most)
    return old[:head], old[head : len(old) - tail], new[head : len(new) - tail], old[len(old) - tail :]


def _one_hunk(start: Sequence[str], old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    """Yields all that differs as one hunk, since comparing it line by line would take too long."""
    first = len(start) + 1
    yield f"@@ -{first if old else first - 1},{len(old)} +{first if new else first - 1},{len(new)} @@\n"
    for mark, lines in (("-", old), ("+", new)):
        for line in lines:
            yield from _complete(f"{mark}{line}")


def _shifted(header: str, offset: int) -> str:
    """Returns a hunk's header with `offset` added to its line numbers."""
    parts = header.split(" ")
    for index in (1, 2):
        number, comma, count = parts[index][1:].partition(",")
        parts[index] = f"{parts[index][0]}{int(number) + offset}{comma}{count}"
    return " ".join(parts)


def _complete(line: str) -> Iterator[str]:
    if line.endswith("\n"):
        yield line
    else:
        yield f"{line}\n"
        yield _NO_NEWLINE
