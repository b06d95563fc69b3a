"""Literal text search below a root. All functions block on the file system.

Ripgrep, if on the PATH, only preselects files; lines are always matched here, so that a line, a match and a binary
file mean the same with and without it.
"""

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from typing import BinaryIO, NamedTuple

from runner_service.executors.local.deadline import Search
from runner_service.executors.local.glob_search import SKIPPED_DIRECTORY, sorted_in_steps, walk_files
from runner_service.executors.local.globs import Matcher, glob_matcher
from runner_service.executors.local.ignore_files import IgnoredPaths
from runner_service.executors.local.paths import Place, Root, display_path
from runner_service.executors.local.reading import open_place
from runner_service.executors.protocol import FileError, Found, GrepMatch

_BLOCK_BYTES = 1024 * 1024
_MAX_SHOWN_CHARACTERS = 2000

_RIPGREP_OPTIONS = (
    "--no-config",
    "--no-messages",
    "--hidden",
    f"--glob=!{SKIPPED_DIRECTORY}",
    "--text",
    "--encoding=none",
    "--case-sensitive",
    "--fixed-strings",
    "--files-with-matches",
    "--null",
)
_HEEDED = ("--no-ignore-global", "--no-ignore-parent", "--no-require-git")  # the ignore files below the root


def ripgrep_options(*, include_ignored: bool) -> Sequence[str]:
    """Returns options that make ripgrep list, NUL-terminated, every file in which `grep_files` may find a match."""
    return (*_RIPGREP_OPTIONS, *(("--no-ignore",) if include_ignored else _HEEDED))


def encoded_pattern(pattern: str) -> bytes:
    """Encodes the pattern. Raises FileError if no line can contain it."""
    if not pattern or any(end in pattern for end in "\n\r\0"):
        raise FileError("invalid", "grep looks for literal text within one line, without line ends and NUL characters")
    return pattern.encode("utf-8", "surrogatepass")


def searched_directory(root: Root, path: str) -> str | None:
    """Returns the real path of the directory to search, or None if `path` is a file. Raises FileError."""
    with root.locate(path) as place:
        found = os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
        return place.path if stat.S_ISDIR(found.st_mode) else None


class Query(NamedTuple):
    """What to search: lines that contain `pattern`, in files below `path` that match the glob `include`."""

    pattern: str
    path: str
    include: str
    limit: int
    include_ignored: bool


def grep_files(root: Root, query: Query, search: Search, candidates: Iterable[str] | None) -> Found[GrepMatch]:
    """Finds lines in those `candidates` (relative to the path of the query) or in all files when None.

    Raises:
        FileError: the path, the pattern or `include` is wrong.
    """
    needle = encoded_pattern(query.pattern)
    matches = glob_matcher(query.include, search) if query.include else None
    found: list[GrepMatch] = []
    for place in _places(root, query, matches, search, candidates):
        if search.has_passed():
            break
        found += _matches_in(place, needle, query.limit + 1 - len(found), search)
        if len(found) > query.limit:
            return Found(found[: query.limit], truncated=True, why=f"there are more than {query.limit} matches")
    return search.result(found)


def _places(
    root: Root, query: Query, matches: Matcher | None, search: Search, candidates: Iterable[str] | None
) -> Iterator[Place]:
    """Yields the files to search; each is valid until the next is requested."""
    with root.locate(query.path) as place:
        if candidates is not None:
            yield from _candidate_places(root, place, query, matches, search, candidates)
            return
        if not stat.S_ISDIR(os.stat(place.name, dir_fd=place.directory, follow_symlinks=False).st_mode):
            yield place
            return
        for file in walk_files(root, place, search, include_ignored=query.include_ignored):
            if matches is None or matches(file.relative):
                yield file.place(place.path)


def _candidate_places(  # the parts of one search
    root: Root, base: Place, query: Query, matches: Matcher | None, search: Search, candidates: Iterable[str]
) -> Iterator[Place]:
    ignored = None if query.include_ignored else IgnoredPaths(root, base, search)
    for candidate in sorted_in_steps(candidates, lambda each: each.split("/")):
        if search.has_passed():
            return
        if (matches is None or matches(candidate)) and not (ignored and candidate in ignored):
            yield from _candidate_place(root, f"{base.path.rstrip('/')}/{candidate}")


def _candidate_place(root: Root, path: str) -> Iterator[Place]:
    # Gone meanwhile, or not what it was, is no match.
    with suppress(FileError), root.locate(path, follow=False) as place:
        yield place


def _matches_in(place: Place, needle: bytes, limit: int, search: Search) -> Sequence[GrepMatch]:
    """Returns the first `limit` matches of one file; none when it cannot be read or is binary."""
    try:
        with open_place(place) as file:
            lines = _matching_lines(file, needle, limit, search)
    except (OSError, FileError):
        return ()
    return [GrepMatch(display_path(place.path), number, _shorten_line(line)) for number, line in lines.items()]


def _matching_lines(file: BinaryIO, needle: bytes, limit: int, search: Search) -> dict[int, bytes]:
    """Reads blocks of whole lines. Lines longer than a block are searched in overlapping pieces."""
    found: dict[int, bytes] = {}
    number, rest = 1, b""
    while not search.has_passed() and (block := file.read(_BLOCK_BYTES)):
        if b"\0" in block:
            return {}
        block = rest + block
        end = block.rfind(b"\n") + 1
        next_rest = end or max(0, len(block) - len(needle) + 1)
        if len(found) < limit:  # the rest is read only to see whether the file is binary
            _search(block[: end or len(block)], needle, number, limit, found)
        number += block.count(b"\n", 0, end)
        rest = block[next_rest:]
    if len(found) < limit:
        _search(rest, needle, number, limit, found)
    return found


def _search(lines: bytes, needle: bytes, number: int, limit: int, found: dict[int, bytes]) -> None:
    counted, at = 0, lines.find(needle)
    while at >= 0 and len(found) < limit:
        start, end = lines.rfind(b"\n", 0, at) + 1, lines.find(b"\n", at)
        end = len(lines) if end < 0 else end
        number += lines.count(b"\n", counted, start)
        counted = start
        found.setdefault(number, lines[start : min(end, start + 4 * _MAX_SHOWN_CHARACTERS)])
        at = lines.find(needle, end)


def _shorten_line(line: bytes) -> str:
    text = line.decode("utf-8", "replace").removesuffix("\r")
    return text if len(text) <= _MAX_SHOWN_CHARACTERS else text[:_MAX_SHOWN_CHARACTERS] + " […]"
