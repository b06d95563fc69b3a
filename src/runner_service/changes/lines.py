"""Lines of texts that were changed: counts and unified diffs, in bounded time."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

_thread = ThreadPoolExecutor(1, thread_name_prefix="diffs")  # of its own: others do not wait for many large files

_MAX_STEPS = 500_000
"""Of comparing two texts; beyond, all that is between the first and the last difference counts as changed."""

_BINARY_SAMPLE_BYTES = 8000
_NO_NEWLINE = "\\ No newline at end of file\n"


class LineCounts(NamedTuple):
    """How many lines were added and removed; `is_binary` if either side is not text."""

    added: int
    removed: int
    is_binary: bool


class Edit(NamedTuple):
    """Lines of the old text that were replaced by lines of the new one; either may be none. Numbers count from 0."""

    old_start: int
    old_end: int
    new_start: int
    new_end: int


def is_binary(data: bytes) -> bool:
    """Returns whether a content is not text, as git decides it."""
    return b"\0" in data[:_BINARY_SAMPLE_BYTES]


async def compare(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Compares texts in the one thread for it."""
    return await asyncio.get_running_loop().run_in_executor(_thread, partial(work, *args, **kwargs))


def count_lines(before: bytes, after: bytes) -> LineCounts:
    """Counts changed lines. In very large changes a line that was moved counts as unchanged."""
    if is_binary(before) or is_binary(after):
        return LineCounts(0, 0, is_binary=True)
    old, new = before.splitlines(keepends=True), after.splitlines(keepends=True)
    edits = find_edits(old, new)
    if edits is None:
        gone, come = Counter(old), Counter(new)
        return LineCounts((come - gone).total(), (gone - come).total(), is_binary=False)
    added = sum(each.new_end - each.new_start for each in edits)
    removed = sum(each.old_end - each.old_start for each in edits)
    return LineCounts(added, removed, is_binary=False)


def unified_diff(before: bytes, after: bytes, context: int) -> Iterator[str]:
    """Yields the hunks of a diff, line by line, without a header. What is not UTF-8 becomes U+FFFD."""
    old, new = _text_lines(before), _text_lines(after)
    for hunk in _hunks(edits_between(old, new), context):
        yield from _hunk_lines(old, new, hunk, context)


def edits_between(old: Sequence[object], new: Sequence[object]) -> list[Edit]:
    """Returns the fewest edits or, if that takes too long, one from the first difference to the last."""
    if (edits := find_edits(old, new)) is not None:
        return edits
    head, tail = _common_ends(old, new)
    return [Edit(head, len(old) - tail, head, len(new) - tail)]


def find_edits(old: Sequence[object], new: Sequence[object]) -> list[Edit] | None:
    """Returns the fewest edits that turn one sequence into the other, in order; None if that takes too long.

    By the algorithm of E. Myers, "An O(ND) Difference Algorithm and Its Variations".
    """
    head, tail = _common_ends(old, new)
    trace = _trace(old[head : len(old) - tail], new[head : len(new) - tail])
    if trace is None:
        return None
    edits: list[Edit] = []
    for is_removal, x, y in _steps_back(trace, len(old) - head - tail, len(new) - head - tail):
        old_start, new_start = x + head, y + head
        added = Edit(old_start, old_start + is_removal, new_start, new_start + (not is_removal))
        later = edits[-1] if edits else None
        if later and (added.old_end, added.new_end) == (later.old_start, later.new_start):
            edits[-1] = Edit(added.old_start, later.old_end, added.new_start, later.new_end)
        else:
            edits.append(added)
    return edits[::-1]


def _trace(old: Sequence[object], new: Sequence[object]) -> list[dict[int, int]] | None:
    """Returns, for each number of edits, how far in `old` each diagonal was reached before; None if it takes too long.

    A diagonal is the position in `old` minus that in `new`.
    """
    names: dict[object, int] = {}
    a, b = ([names.setdefault(line, len(names)) for line in lines] for lines in (old, new))
    reached, trace, steps = {1: 0}, [], 0
    for edits in range(len(a) + len(b) + 1):
        trace.append(reached)
        reached = dict(reached)
        for diagonal in range(-edits, edits + 1, 2):
            first = x = _entered(reached, diagonal, edits)[1]
            while x < len(a) and x - diagonal < len(b) and a[x] == b[x - diagonal]:
                x += 1
            reached[diagonal] = x
            steps += 1 + x - first
            if x >= len(a) and x - diagonal >= len(b):
                return trace
            if steps > _MAX_STEPS:
                return None
        steps += edits  # of the copy
    raise AssertionError  # that many edits are always enough


def _entered(reached: dict[int, int], diagonal: int, edits: int) -> tuple[bool, int]:
    """Returns whether a diagonal is entered by removing a line, or by adding one, and where in the old text then."""
    adds = diagonal == -edits or (diagonal != edits and reached[diagonal - 1] < reached[diagonal + 1])
    return not adds, reached[diagonal + 1] if adds else reached[diagonal - 1] + 1


def _steps_back(trace: Sequence[dict[int, int]], x: int, y: int) -> Iterator[tuple[bool, int, int]]:
    """Yields each line that was removed or added, the last first: whether it was removed, and where in both texts."""
    for edits in reversed(range(1, len(trace))):
        diagonal = x - y
        is_removal, entered = _entered(trace[edits], diagonal, edits)
        x = entered - is_removal
        y = x - diagonal + (1 if is_removal else -1)
        yield is_removal, x, y


def _common_ends(old: Sequence[object], new: Sequence[object]) -> tuple[int, int]:
    """Returns how many lines are the same at the start and at the end."""
    shorter = min(len(old), len(new))
    head = next((index for index in range(shorter) if old[index] != new[index]), shorter)
    most = shorter - head
    return head, next((index for index in range(most) if old[-1 - index] != new[-1 - index]), most)


def _text_lines(data: bytes) -> list[str]:
    return [line.decode("utf-8", "replace") for line in data.splitlines(keepends=True)]


def _hunks(edits: Sequence[Edit], context: int) -> Iterator[list[Edit]]:
    """Yields edits together whose context touches."""
    hunk: list[Edit] = []
    for edit in edits:
        if hunk and edit.old_start - hunk[-1].old_end > 2 * context:
            yield hunk
            hunk = []
        hunk.append(edit)
    if hunk:
        yield hunk


def _hunk_lines(old: Sequence[str], new: Sequence[str], hunk: Sequence[Edit], context: int) -> Iterator[str]:
    first, last = hunk[0], hunk[-1]
    lead, rest = min(context, first.old_start), min(context, len(old) - last.old_end)
    ranges = (
        _range(first.old_start - lead, last.old_end + rest),
        _range(first.new_start - lead, last.new_end + rest),
    )
    yield f"@@ -{ranges[0]} +{ranges[1]} @@\n"
    at = first.old_start - lead
    for edit in hunk:
        yield from _marked(" ", old[at : edit.old_start])
        yield from _marked("-", old[edit.old_start : edit.old_end])
        yield from _marked("+", new[edit.new_start : edit.new_end])
        at = edit.old_end
    yield from _marked(" ", old[at : at + rest])


def _range(start: int, end: int) -> str:
    """Returns the range of lines of a hunk; an empty one is named by the line before it."""
    if end - start == 1:
        return str(end)
    return f"{start + 1 if end > start else start},{end - start}"


def _marked(mark: str, lines: Sequence[str]) -> Iterator[str]:
    for line in lines:
        yield f"{mark}{line}" if line.endswith("\n") else f"{mark}{line}\n{_NO_NEWLINE}"
