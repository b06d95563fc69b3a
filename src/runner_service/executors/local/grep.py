"""Finding lines by text below a root. All functions block on the file system.

Ripgrep, where it is on the PATH, only says which files are worth a look; the lines are always found here. So there is
one definition of a line, a match and a binary file, with it and without it.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from runner_service.executors.local.paths import Place, Root, readable
from runner_service.executors.local.reading import open_place
from runner_service.executors.local.search import SKIPPED, Clock, Matcher, found_until, matcher, walk
from runner_service.executors.protocol import FileError, Found, GrepMatch

_BLOCK = 1024 * 1024
_LONGEST_LINE = 16 * 1024 * 1024
_SHOWN_OF_A_LINE = 2000

RIPGREP_OPTIONS = (
    "--no-config",
    "--no-messages",
    "--no-ignore",
    "--hidden",
    f"--glob=!{SKIPPED}",
    "--text",
    "--encoding=none",
    "--case-sensitive",
    "--fixed-strings",
    "--files-with-matches",
    "--null",
)
"""Makes ripgrep name every file that `grep_files` may find something in, each with a NUL behind it."""


def encoded_pattern(pattern: str) -> bytes:
    """Returns what is looked for. Raises FileError when no line can hold it."""
    if not pattern or any(end in pattern for end in "\n\r\0"):
        raise FileError("invalid", "grep looks for literal text within one line, without line ends and NUL characters")
    return pattern.encode("utf-8", "surrogatepass")


def searched_directory(root: Root, path: str) -> str | None:
    """Returns the real path of the directory to be searched, or None when `path` is a file. Raises FileError."""
    with root.locate(path) as place:
        found = os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
        return place.path if stat.S_ISDIR(found.st_mode) else None


def grep_files(
    root: Root, pattern: str, path: str, include: str, limit: int, clock: Clock, candidates: Iterable[str] | None
) -> Found[GrepMatch]:
    """Finds lines that hold `pattern`, in those `candidates` (relative to `path`) or in all files when None.

    Raises:
        FileError: the path, the pattern or `include` is wrong.
    """
    wanted = encoded_pattern(pattern)
    matches = matcher(include) if include else None
    found: list[GrepMatch] = []
    for place in _places(root, path, matches, clock, candidates):
        if clock.is_up():
            break
        found += _found_in(place, wanted, limit + 1 - len(found), clock)
        if len(found) > limit:
            return Found(found[:limit], truncated=True, why=f"there are more than {limit} matches")
    return found_until(clock, found)


def _places(
    root: Root, path: str, matches: Matcher | None, clock: Clock, candidates: Iterable[str] | None
) -> Iterator[Place]:
    """Yields the files to look into, each to be used before the next is asked for."""
    if candidates is not None:
        yield from _candidate_places(root, path, matches, candidates)
        return
    with root.locate(path) as place:
        if not stat.S_ISDIR(os.stat(place.name, dir_fd=place.directory, follow_symlinks=False).st_mode):
            yield place
            return
        for file in walk(place, clock):
            if matches is None or matches(file.relative):
                yield file.place(place.path)


def _candidate_places(root: Root, path: str, matches: Matcher | None, candidates: Iterable[str]) -> Iterator[Place]:
    for candidate in sorted(candidates, key=lambda each: each.split("/")):
        if matches is None or matches(candidate):
            try:
                with root.locate(f"{path.rstrip('/')}/{candidate}", follow=False) as place:
                    yield place
            except FileError:
                # Gone meanwhile, or not what it was.
                continue


def _found_in(place: Place, wanted: bytes, most: int, clock: Clock) -> Sequence[GrepMatch]:
    """Returns the first `most` matches of one file; none when it cannot be read or is binary."""
    try:
        with open_place(place) as file:
            lines = _matching_lines(file, wanted, most, clock)
    except (OSError, FileError):
        return ()
    return [GrepMatch(readable(place.path), number, _shown(line)) for number, line in lines.items()]


def _matching_lines(file: BinaryIO, wanted: bytes, most: int, clock: Clock) -> dict[int, bytes]:
    """Reads in large blocks of whole lines. A line longer than 16 MiB is looked at in pieces of that size."""
    found: dict[int, bytes] = {}
    number, rest = 1, b""
    while not clock.is_up() and (block := file.read(_BLOCK)):
        if b"\0" in block:
            return {}
        block = rest + block
        end = block.rfind(b"\n") + 1
        if not end and len(block) >= _LONGEST_LINE:
            end = len(block)
        if len(found) < most:  # the rest is read only to see whether the file is binary
            _search(block[:end], wanted, number, most, found)
        number += block.count(b"\n", 0, end)
        rest = block[end:]
    if len(found) < most:
        _search(rest, wanted, number, most, found)
    return found


def _search(lines: bytes, wanted: bytes, number: int, most: int, found: dict[int, bytes]) -> None:
    counted, at = 0, lines.find(wanted)
    while at >= 0 and len(found) < most:
        start, end = lines.rfind(b"\n", 0, at) + 1, lines.find(b"\n", at)
        end = len(lines) if end < 0 else end
        number += lines.count(b"\n", counted, start)
        counted = start
        found.setdefault(number, lines[start : min(end, start + 4 * _SHOWN_OF_A_LINE)])
        at = lines.find(wanted, end)


def _shown(line: bytes) -> str:
    text = line.decode("utf-8", "replace").removesuffix("\r")
    return text if len(text) <= _SHOWN_OF_A_LINE else text[:_SHOWN_OF_A_LINE] + " […]"
