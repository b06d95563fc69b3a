"""The table of promises in docs/scale-out.md: each is held by a test that exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
PAGE = ROOT / "docs" / "scale-out.md"


def rows() -> list[list[str]]:
    """The cells of each fault."""
    table = PAGE.read_text().partition("## What is promised under a fault")[2].partition("\n## ")[0]
    lines = [line.strip("|\n ") for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split(" | ")] for line in lines[2:]]


def existing_tests() -> set[str]:
    """The names of all tests beside those of the documentation."""
    files = [file for file in (ROOT / "tests").rglob("test_*.py") if file.parent != Path(__file__).parent]
    return {
        name
        for file in files
        for name in re.findall(r"^async def (test_\w+)|^def (test_\w+)", file.read_text(), re.MULTILINE)
        for name in name
        if name
    }


def test_every_row_names_tests_that_exist() -> None:
    known = existing_tests()
    assert len(rows()) > 40
    for row in rows():
        assert len(row) == 3, row
        names = re.findall(r"`(test_\w+)(…?)`", row[2])
        assert names, row
        for name, is_prefix in names:
            assert any(each.startswith(name) if is_prefix else each == name for each in known), name


def test_every_numbered_acceptance_test_is_in_a_row() -> None:
    told = {int(number) for row in rows() for number in re.findall(r"`test_(\d+)_", row[2])}
    assert told >= {int(name.split("_")[1]) for name in existing_tests() if re.match(r"test_\d+_", name)}
