"""Brace expansion as in bash: `{a,b}`, `{1..9}`, `{a..e..2}`; braces that are neither stay as they are."""

import re
from collections.abc import Iterator

_RANGE = re.compile(r"(-?\d{1,4})\.\.(-?\d{1,4})(?:\.\.(-?\d{1,4}))?|([a-zA-Z])\.\.([a-zA-Z])(?:\.\.(-?\d{1,4}))?")


def expand_braces(text: str) -> Iterator[str]:
    """Yields the expansions lazily. Their number can be exponential in the length of the text."""
    group = _first_group(text)
    if group is None:
        yield text
        return
    start, end, commas = group
    for choice in _choices(text[start + 1 : end], [comma - start - 1 for comma in commas]):
        for rest in expand_braces(choice + text[end + 1 :]):
            yield text[:start] + rest


def _choices(inner: str, commas: list[int]) -> Iterator[str]:
    if not commas:
        yield from _range(inner)
        return
    starts = [0, *(comma + 1 for comma in commas)]
    for start, end in zip(starts, [*commas, len(inner)], strict=True):
        yield inner[start:end]


def _first_group(text: str) -> tuple[int, int, list[int]] | None:
    """Returns the start, the end and the commas of the outermost group that begins first. One pass."""
    opened: list[tuple[int, list[int]]] = []
    groups: list[tuple[int, int, list[int]]] = []
    index = 0
    while index < len(text):
        match text[index]:
            case "\\":
                index += 1
            case "{":
                opened.append((index, []))
            case "," if opened:
                opened[-1][1].append(index)
            case "}" if opened:
                start, commas = opened.pop()
                if commas or _RANGE.fullmatch(text, start + 1, index):
                    groups.append((start, index, commas))
        index += 1
    return min(groups, default=None)


def _range(inner: str) -> Iterator[str]:
    match = _RANGE.fullmatch(inner)
    if match is None:
        return
    first, last, step, low, high, letter_step = match.groups()
    size = abs(int(step or letter_step or 1)) or 1
    if low:
        yield from (chr(each) for each in _inclusive(ord(low), ord(high), size))
        return
    is_padded = any(re.match(r"-?0\d", each) for each in (first, last))
    width = max(len(first), len(last)) if is_padded else 0
    yield from (f"{each:0{width}d}" for each in _inclusive(int(first), int(last), size))


def _inclusive(first: int, last: int, step: int) -> range:
    return range(first, last + 1, step) if first <= last else range(first, last - 1, -step)
