"""Glob patterns in time bounded by the product of the lengths of pattern and path, whatever the pattern.

Standard library only: this is also sent to sandboxes, where RE2 is not installed.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from runner_service.executors.local.braces import expand_braces
from runner_service.executors.local.deadline import Deadline
from runner_service.executors.protocol import FileError

MAX_PATTERN_CHARACTERS = 1000
MAX_ALTERNATIVES = 500
MAX_SEGMENTS = 100

Matcher = Callable[[str], bool]
_Segment = Callable[[str], bool] | None
"""Matches one name of a path; None is `**`: any directories."""

_CLASSES = {
    "alnum": "a-zA-Z0-9", "alpha": "a-zA-Z", "blank": r" \t", "digit": "0-9", "lower": "a-z", "punct": r"!-/:-@\[-`{-~",
    "space": r"\s", "upper": "A-Z", "word": r"\w", "xdigit": "0-9a-fA-F",
}  # fmt: skip
_TOKEN = re.compile(
    r"(?P<star>\*+)|(?P<one>\?)|\[(?P<not>[!^]?)(?P<set>\]?(?:\[:\w+:\]|\\.|[^\\\]])*)\]|\\(?P<escaped>.)", re.DOTALL
)
_SET_ITEM = re.compile(r"\[:(?P<name>\w+):\]|(?P<low>\\.|[^\\])(?:-(?P<high>\\.|[^\\]))?", re.DOTALL)


def glob_matcher(pattern: str, deadline: Deadline) -> Matcher:
    """Returns a function that tells whether a path, relative to where the search begins, matches a glob.

    A pattern without `/` is matched with the last name of a path at any depth, else with the whole path, where `**` is
    any directories and a leading `/` is where the search begins. `*`, `?` and `[...]` match within one name, `{a,b}`
    and `{1..3}` expand, and a leading dot must be written. After the deadline nothing matches.

    Raises:
        FileError: the pattern is invalid or too large.
    """
    if ".." in pattern.split("/") or not pattern.strip("/"):
        raise FileError("invalid", f"{pattern}: not a pattern for files below a directory")
    if len(pattern) > MAX_PATTERN_CHARACTERS:
        raise FileError("invalid", f"a glob pattern has at most {MAX_PATTERN_CHARACTERS} characters")
    alternatives = list(islice(expand_braces(pattern.lstrip("/")), MAX_ALTERNATIVES + 1))
    if len(alternatives) > MAX_ALTERNATIVES:
        raise FileError("invalid", f"{pattern}: its braces expand to more than {MAX_ALTERNATIVES} patterns")
    compiled = [_compiled(each, deadline) for each in dict.fromkeys(alternatives)]
    if "/" in pattern:
        return lambda path: _matches_any(compiled, path.split("/"), deadline)
    return lambda path: _matches_any(compiled, [path.rpartition("/")[2]], deadline)


class PathPattern:
    """A pattern for a whole path, as in ignore files: without braces, and a leading dot is like any other character."""

    def __init__(self, pattern: str, deadline: Deadline) -> None:
        if not pattern or len(pattern) > MAX_PATTERN_CHARACTERS:
            raise FileError("invalid", f"a pattern has 1 to {MAX_PATTERN_CHARACTERS} characters")
        self._plain = pattern if pattern.isidentifier() else ""
        self._segments = _compiled(pattern, deadline, hides_dots=False)

    def matches(self, names: Sequence[str]) -> bool:
        """Returns whether the names of a path match."""
        if self._plain:
            return len(names) == 1 and names[0] == self._plain
        return _matches(self._segments, names, hides_dots=False)


def _compiled(pattern: str, deadline: Deadline, *, hides_dots: bool = True) -> list[_Segment]:
    deadline.require(pattern)
    texts = [each for each in pattern.split("/") if each not in {"", "."}]
    if pattern.endswith(("/", "/.")) or not texts:  # names a directory, and only files are found
        texts.append("")
    if texts[-1] == "**":
        texts.append("*")
    if len(texts) > MAX_SEGMENTS:
        raise FileError("invalid", f"a glob pattern has at most {MAX_SEGMENTS} names between slashes")
    kept = [each for index, each in enumerate(texts) if each != "**" or texts[index - 1 : index] != ["**"]]
    return [None if each == "**" else _segment(each, hides_dots=hides_dots) for each in kept]


def _matches_any(alternatives: Sequence[list[_Segment]], names: list[str], deadline: Deadline) -> bool:
    return any(not deadline.has_passed() and _matches(segments, names) for segments in alternatives)


def _matches(segments: list[_Segment], names: Sequence[str], *, hides_dots: bool = True) -> bool:
    """Simulates all ways to match at once: the set of positions in the pattern that each name can leave."""
    last = segments[-1]  # never `**`: see _compiled
    if last and not last(names[-1]):
        return False
    positions = {0}
    for name in names:
        positions = set(_next_positions(segments, positions, name, hides_dots=hides_dots))
        if not positions:
            return False
    return len(segments) in positions


def _next_positions(segments: list[_Segment], positions: set[int], name: str, *, hides_dots: bool) -> Iterator[int]:
    for position in positions:
        at = position
        if at < len(segments) and segments[at] is None:
            if not (hides_dots and name.startswith(".")):
                yield at
            at += 1
        if at < len(segments) and (segment := segments[at]) is not None and segment(name):
            yield at + 1


def _segment(text: str, *, hides_dots: bool) -> Callable[[str], bool]:
    """Compiles a pattern for one name.

    Between stars the length is fixed, so the leftmost place of each part is always right; the atomic groups keep the
    regular expression from trying others.
    """
    parts = [""]
    end = 0
    for token in _TOKEN.finditer(text):
        parts[-1] += re.escape(text[end : token.start()])
        end = token.end()
        if token["star"]:
            parts.append("")
        else:
            parts[-1] += _one_character(token)
    parts[-1] += re.escape(text[end:])
    first, *others = parts
    middle = "".join(f"(?>.*?{part})" for part in others[:-1] if part)
    expression = f"{first}{middle}.*{others[-1]}" if others else first
    visible = r"(?!\.)" if hides_dots and not text.startswith((".", r"\.")) else ""
    match = re.compile(visible + expression, re.DOTALL).fullmatch
    return lambda name: match(name) is not None


def _one_character(token: re.Match[str]) -> str:
    if token["one"]:
        return "."
    if token["escaped"] is not None:
        return re.escape(token["escaped"])
    members = "".join(map(_set_item, _SET_ITEM.finditer(token["set"])))
    if token["not"]:
        return f"[^{members}]" if members else "."
    return f"[{members}]" if members else "(?!)"


def _set_item(item: re.Match[str]) -> str:
    if item["name"]:
        return _CLASSES.get(item["name"], "")
    low = item["low"][-1]
    high = item["high"][-1] if item["high"] else low
    return f"{re.escape(low)}-{re.escape(high)}" if low <= high else ""
