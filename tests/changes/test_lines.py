"""Texts are compared exactly, and in bounded time whatever they hold."""

import subprocess
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runner_service.changes import lines
from runner_service.changes.lines import Edit, count_lines, find_edits, unified_diff

few_lines = st.lists(st.sampled_from("abc"), max_size=14)


def edited(old: Sequence[str], new: Sequence[str], edits: Sequence[Edit]) -> list[str]:
    result: list[str] = []
    at = 0
    for edit in edits:
        result += [*old[at : edit.old_start], *new[edit.new_start : edit.new_end]]
        at = edit.old_end
    return [*result, *old[at:]]


def longest_common(old: Sequence[str], new: Sequence[str]) -> int:
    lengths = [0] * (len(new) + 1)
    for line in old:
        before = list(lengths)
        for index, other in enumerate(new):
            lengths[index + 1] = before[index] + 1 if line == other else max(lengths[index], before[index + 1])
    return lengths[-1]


@settings(deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(few_lines, few_lines)
def test_edits_turn_one_text_into_the_other_and_are_the_fewest(old: list[str], new: list[str]) -> None:
    edits = find_edits(old, new)
    assert edits is not None
    assert edited(old, new, edits) == new
    kept = longest_common(old, new)
    assert sum(each.old_end - each.old_start for each in edits) == len(old) - kept
    assert sum(each.new_end - each.new_start for each in edits) == len(new) - kept
    for one, other in pairwise(edits):
        assert other.old_start > one.old_end


@pytest.mark.parametrize("context", [0, 1, 3])
@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"1\n2\n3\n4\n5\n6\n7\n8\n9\n", b"1\nx\n3\n4\n5\n6\n7\n8\ny\n"),
        (b"1\n2\n3\n", b"0\n1\n3"),
        (b"1", b"1\n"),
        (b"1\n2\n", b"2\n"),
        (b"1\n" * 9, b"1\n" * 4 + b"2\n" + b"1\n" * 7),
        (b"1\r\n2\r\n", b"1\n2\r\n"),
    ],
)
def test_git_applies_the_hunks(tmp_path: Path, before: bytes, after: bytes, context: int) -> None:
    (tmp_path / "f").write_bytes(before)
    diff = "".join(["--- a/f\n", "+++ b/f\n", *unified_diff(before, after, context)])
    subprocess.run(["git", "apply", "--unidiff-zero", "-"], cwd=tmp_path, input=diff.encode(), check=True)
    assert (tmp_path / "f").read_bytes() == after


def test_what_takes_too_long_to_compare_is_one_hunk_and_is_counted_by_its_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lines, "_MAX_STEPS", 50)
    before = b"".join(b"%d\n" % number for number in range(100))
    after = b"".join(b"%d\n" % number for number in reversed(range(100)))
    assert find_edits(before.splitlines(), after.splitlines()) is None
    hunks = list(unified_diff(before, after, 3))
    assert [line for line in hunks if line.startswith("@@")] == ["@@ -1,100 +1,100 @@\n"]
    assert count_lines(before, after) == (0, 0, False)


def test_a_few_changes_in_a_very_long_text_are_found_one_by_one() -> None:
    before = [str(number) for number in range(100_000)]
    after = [text if number % 10_000 else "x" for number, text in enumerate(before)]
    assert len(find_edits(before, after) or ()) == 10
