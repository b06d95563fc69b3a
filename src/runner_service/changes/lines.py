"""Lines of texts that were changed: counts and unified diffs, in bounded time."""

import asyncio
import difflib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import accumulate
from typing import NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_thread = ThreadPoolExecutor(1, thread_name_prefix="diffs")  # of its own: others do not wait for many large files

_MAX_COMPARISONS = 2_000_000  # take some 100 ms
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


async def compare(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Compares texts in the one thread for it."""
    return await asyncio.get_running_loop().run_in_executor(_thread, partial(work, *args, **kwargs))


def count_lines(before: bytes, after: bytes) -> LineCounts:
    """Counts changed lines. In large changes a line that was moved counts as unchanged."""
    if is_binary(before) or is_binary(after):
        return LineCounts(0, 0, is_binary=True)
    start, old, new, _ = _middle(before.splitlines(keepends=True), after.splitlines(keepends=True))
    del start
    kept = None if max(len(old), len(new)) > _MAX_COMPARED_LINES else _kept_lines(old, new)
    if kept is None:
        gone, come = Counter(old), Counter(new)
        return LineCounts((come - gone).total(), (gone - come).total(), is_binary=False)
    return LineCounts(len(new) - kept, len(old) - kept, is_binary=False)


def _kept_lines(old: Sequence[bytes], new: Sequence[bytes]) -> int | None:
    """Returns how many lines are the same, in order; None if that takes too long: few different lines, many times."""
    matcher = difflib.SequenceMatcher(None, old, new, autojunk=False)
    counts = Counter(new)
    costs = [0, *accumulate(1 + counts[line] for line in old)]
    kept = comparisons = 0
    parts = [(0, len(old), 0, len(new))]
    while parts:
        first, last, new_first, new_last = parts.pop()
        comparisons += costs[last] - costs[first]
        if comparisons > _MAX_COMPARISONS:
            return None
        start, new_start, size = matcher.find_longest_match(first, last, new_first, new_last)
        if size:
            kept += size
            parts += [(first, start, new_first, new_start), (start + size, last, new_start + size, new_last)]
    return kept


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
