"""Ignore files in the format of .gitignore, as developers' tools heed them in searches.

Below the root only: the machine's and the user's own ignore files say nothing about a sandbox. Ripgrep heeds the same.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from re import error as PatternError  # noqa: N812  # re.error says nothing

from runner_service.executors.local.deadline import Deadline
from runner_service.executors.local.globs import PathPattern
from runner_service.executors.local.paths import Place, Root
from runner_service.executors.local.reading import open_place
from runner_service.executors.protocol import FileError

_NAMES = (".gitignore", ".ignore", ".rgignore")
"""From the weakest to the strongest."""

_EXCLUDE = (".git", "info", "exclude")
_MAX_FILE_BYTES = 256 * 1024
_MAX_PATTERNS = 5_000
_ENTER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class _Rule:
    pattern: PathPattern
    is_negated: bool
    is_for_directories: bool
    is_anchored: bool

    def matches(self, names: Sequence[str], *, is_directory: bool) -> bool:
        if self.is_for_directories and not is_directory:
            return False
        return self.pattern.matches(names if self.is_anchored else names[-1:])


@dataclass(frozen=True, slots=True)
class IgnoreRules:
    """The rules of a directory, `depth` names below the root, and those of the directories above it."""

    depth: int
    rules: Sequence[_Rule]
    above: "IgnoreRules | None"

    def ignore(self, names: Sequence[str], *, is_directory: bool) -> bool:
        """Returns whether an entry is ignored, by its names from the root. The last rule of the deepest file wins."""
        level: IgnoreRules | None = self
        while level:
            for rule in reversed(level.rules):
                if rule.matches(names[level.depth :], is_directory=is_directory):
                    return not rule.is_negated
            level = level.above
        return False


def ignore_rules(above: IgnoreRules | None, directory: int, depth: int, deadline: Deadline) -> IgnoreRules | None:
    """Returns the rules in force in an open directory, which is `depth` names below the root."""
    rules = [rule for line in _lines(directory) if (rule := _parse(line, deadline))][:_MAX_PATTERNS]
    return IgnoreRules(depth, rules, above) if rules else above


def rules_above(root: Root, names: Sequence[str], deadline: Deadline) -> IgnoreRules | None:
    """Returns the rules of the directories above the one with these names; None if they ignore that one.

    Whoever names an ignored directory wants to search it.
    """
    rules: IgnoreRules | None = None
    for depth in range(len(names)):
        if rules and rules.ignore(names[:depth], is_directory=True):
            return None
        with root.locate(root.shown(list(names[:depth]))) as place:
            directory = os.open(place.name, _ENTER_FLAGS, dir_fd=place.directory)
            try:
                rules = ignore_rules(rules, directory, depth, deadline)
            finally:
                os.close(directory)
    return None if rules and rules.ignore(names, is_directory=True) else rules


class IgnoredPaths:
    """Tells which files below a directory are ignored, by their relative paths."""

    def __init__(self, root: Root, base: Place, deadline: Deadline) -> None:
        self._root = root
        self._base = path_names(root, base)
        self._deadline = deadline
        self._rules: dict[tuple[str, ...], IgnoreRules | None] = {}
        self._ignored: set[tuple[str, ...]] = set()
        above = rules_above(root, self._base, deadline)
        self._rules[()] = self._read((), above)

    def __contains__(self, path: str) -> bool:
        """Returns whether the file is ignored, or a directory that it is in."""
        *parents, _ = names = tuple(path.split("/"))
        rules = self._enter(tuple(parents))
        if tuple(parents) in self._ignored:
            return True
        return bool(rules and rules.ignore([*self._base, *names], is_directory=False))

    def _enter(self, names: tuple[str, ...]) -> IgnoreRules | None:
        for depth in range(1, len(names) + 1):
            directory, parent = names[:depth], names[: depth - 1]
            if directory in self._rules:
                continue
            rules = self._rules[parent]
            if parent in self._ignored or (rules and rules.ignore([*self._base, *directory], is_directory=True)):
                self._ignored.add(directory)
                self._rules[directory] = None
            else:
                self._rules[directory] = self._read(directory, rules)
        return self._rules[names]

    def _read(self, names: tuple[str, ...], above: IgnoreRules | None) -> IgnoreRules | None:
        path = self._root.shown([*self._base, *names])
        with suppress(FileError), self._root.locate(path, follow=False) as place:
            directory = os.open(place.name, _ENTER_FLAGS, dir_fd=place.directory)
            try:
                return ignore_rules(above, directory, len(self._base) + len(names), self._deadline)
            finally:
                os.close(directory)
        return above


def path_names(root: Root, place: Place) -> list[str]:
    """Returns the names that lead from the root to a place."""
    return [name for name in place.path.removeprefix(root.path).split("/") if name]


def _lines(directory: int) -> Iterator[str]:
    yield from _exclude_lines(directory)
    for name in _NAMES:
        yield from _file_lines(directory, name)


def _exclude_lines(directory: int) -> Iterator[str]:
    opened: list[int] = []
    try:
        for name in _EXCLUDE[:-1]:
            opened.append(os.open(name, _ENTER_FLAGS, dir_fd=opened[-1] if opened else directory))
        yield from _file_lines(opened[-1], _EXCLUDE[-1])
    except OSError:
        return
    finally:
        for each in opened:
            os.close(each)


def _file_lines(directory: int, name: str) -> Iterator[str]:
    try:
        with open_place(Place(directory, name, name)) as file:
            yield from file.read(_MAX_FILE_BYTES).decode("utf-8", "surrogateescape").splitlines()
    except (OSError, FileError):
        return


def _parse(line: str, deadline: Deadline) -> _Rule | None:
    text = line.removeprefix("\ufeff")
    while text.endswith(" ") and not text.endswith("\\ "):
        text = text[:-1]
    if not text or text.startswith("#"):
        return None
    is_negated = text.startswith("!")
    text = text.removeprefix("!")
    pattern = text.rstrip("/")
    try:
        compiled = PathPattern(pattern.lstrip("/"), deadline)
    except (FileError, PatternError):  # another tool's, or nonsense
        return None
    return _Rule(compiled, is_negated, text.endswith("/"), "/" in pattern)
