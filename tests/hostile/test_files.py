"""Files and directories that no tool can finish with."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.hostile.conftest import Attack
from tests.running import turn

pytestmark = pytest.mark.long

SPARSE = "seq 100000 > big && truncate -s 2T big"
DEEP = "for i in $(seq 30); do d=$(printf 'd/%.0s' $(seq 40)); mkdir -p $d; cd $d; done"
# A file by one system call: `touch` takes six times as long.
MANY = "mkdir many && cd many && python3 -S -c 'import os; [os.mknod(str(number)) for number in range(150_000)]'"

CASES: dict[str, tuple[str, list[tuple[str, dict[str, Any]]]]] = {
    "a sparse file": (SPARSE, [("read_file", {"file_path": "/big", "limit": 2})]),
    "a sparse file, by eight at once": (SPARSE, [("read_file", {"file_path": "/big", "limit": 2})] * 8),
    "the far end of a sparse file": (SPARSE, [("read_file", {"file_path": "/big", "offset": 200_000, "limit": 2})] * 8),
    "a search in a sparse file": (SPARSE, [("grep", {"pattern": "99999x", "path": "/"})] * 8),
    "an edit of a sparse file": (SPARSE, [("edit_file", {"file_path": "/big", "old_string": "1", "new_string": "2"})]),
    "an edit of every byte": (
        "head -c 30000000 /dev/zero | tr '\\0' a > all",
        [("edit_file", {"file_path": "/all", "old_string": "a", "new_string": "bb", "replace_all": True})] * 4,
    ),
    "a text that almost matches everywhere": (
        "head -c 60000000 /dev/zero | tr '\\0' a > all",
        [("edit_file", {"file_path": "/all", "old_string": "a" * 99 + "b", "new_string": "c"})] * 8,
    ),
    "a deep directory, searched": (DEEP, [("glob", {"pattern": "**/*", "path": "/"})] * 8),
    "a deep directory, deleted": (DEEP, [("delete", {"file_path": "/d"})]),
    "a directory of many files": (MANY, [("ls", {"path": "/many"}), ("glob", {"pattern": "*", "path": "/"})] * 4),
    "bytes that are no text": (
        "head -c 15000000 /dev/zero | tr '\\0' '\\377' > odd",
        [("read_file", {"file_path": "/odd", "limit": 2})] * 8,
    ),
    "a path of a megabyte": (":", [("read_file", {"file_path": "a/" * 500_000, "limit": 2})] * 4),
}


@pytest.fixture(autouse=True)
def removed_tree(tmp_path: Path) -> Iterator[None]:
    """What is nested deeper than Python recurses would fail a later session, when pytest removes old directories."""
    yield
    subprocess.run(["rm", "-rf", *tmp_path.iterdir()], check=True)


@pytest.mark.parametrize("name", CASES)
async def test_a_file_tool_keeps_nobody_waiting(attack: Attack, name: str) -> None:
    prepare, calls = CASES[name]
    async with attack([turn("", *calls)], prepare) as target:
        await target.answers()
        await target.cancel()
