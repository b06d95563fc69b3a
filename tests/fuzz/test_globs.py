"""Glob patterns: they end, and mean what a simple matcher says."""

import re

from hypothesis import given
from hypothesis import strategies as st

from runner_service.executors.local.deadline import Deadline
from runner_service.executors.local.globs import MAX_PATTERN_CHARACTERS, glob_matcher
from runner_service.executors.protocol import FileError

tokens = st.sampled_from(["a", "b", ".", "*", "?", "**", "/", "/**/", "[ab]", "[!a]", "-"])
names = st.text("ab.-", min_size=1, max_size=6).filter(lambda name: name not in {".", ".."})
paths = st.lists(names, min_size=1, max_size=6).map("/".join)


@given(st.lists(tokens, min_size=1, max_size=8).map("".join), paths)
def test_a_pattern_matches_what_a_simple_matcher_says(pattern: str, path: str) -> None:
    try:
        matches = glob_matcher(pattern, Deadline())
    except FileError:
        return
    segments = [each for each in pattern.split("/") if each not in {"", "."}]
    if pattern.endswith(("/", "/.")) or not segments:
        segments.append("")
    subject = path if "/" in pattern else path.rpartition("/")[2]
    assert matches(path) == simple(segments, subject.split("/")), (pattern, path)


def simple(segments: list[str], names: list[str]) -> bool:
    """Tries everything."""
    if not segments:
        return not names
    if segments == ["**"]:
        return bool(names) and not any(name.startswith(".") for name in names)
    if segments[0] == "**":
        here = bool(names) and not names[0].startswith(".") and simple(segments, names[1:])
        return here or simple(segments[1:], names)
    return bool(names) and one(segments[0], names[0]) and simple(segments[1:], names[1:])


def one(segment: str, name: str) -> bool:
    if name.startswith(".") and not segment.startswith("."):
        return False
    parts = re.findall(r"\*+|\?|\[!?[ab]+\]|.", segment)
    known = {"?": ".", "[ab]": "[ab]", "[!a]": "[^a]"}
    expression = "".join(".*" if part[0] == "*" else known.get(part, re.escape(part)) for part in parts)
    return re.fullmatch(expression, name) is not None


@given(st.text(max_size=MAX_PATTERN_CHARACTERS), st.text(max_size=300))
def test_any_text_is_a_pattern_or_is_refused(pattern: str, path: str) -> None:
    try:
        glob_matcher(pattern, Deadline())(path)
    except FileError:
        return


@given(
    st.lists(st.sampled_from(["*", "**", "/", "a", "?", "{a,b}", "{1..9}", "[a-z]", "{", "}", ","]), max_size=300).map(
        "".join
    )
)
def test_a_pattern_of_special_characters_ends(pattern: str) -> None:
    try:
        matches = glob_matcher(pattern, Deadline(5))
    except FileError:
        return
    matches("a/" * 100 + "a" * 200)
