"""The pages of the documentation, as blocks of code.

The first word behind ``` is the language. `text` is what a terminal prints in answer to the last block typed there; `…`
stands for anything within a line, alone on a line for any lines; times and minted ids count as equal. Further words:

- the name of a terminal; without one it is the first, or, for `text`, that of the block before
- `stays`: the command does not end by itself

A comment `<!-- not run: why -->` above a block keeps it from being run; its commands are checked all the same.
"""

import re
from pathlib import Path
from typing import NamedTuple

REPOSITORY = Path(__file__).parent.parent.parent
PAGES = sorted([REPOSITORY / "README.md", REPOSITORY / "CONTRIBUTING.md", *(REPOSITORY / "docs").glob("*.md")])

_LINES = re.MULTILINE
_BLOCK = re.compile(
    r"^(?P<comment><!-- not run: [^\n]+ -->\n)?```(?P<info>[^\n]*)\n(?P<text>.*?)^```$", _LINES | re.DOTALL
)
_VARYING = (
    # Whoever types slowly meets the idle service of an earlier command at its end.
    (re.compile(r"^runner-service: waiting for the service with pid \d+, which is stopping\n", _LINES), ""),
    (re.compile(r"\b\d+(\.\d+)? (ms|s|min)\b"), "1 s"),
    (re.compile(r"\b[0-9a-f]{12}([0-9a-f]{20})?\b"), "0123456789ab"),
    (re.compile(r"\d{4}-\d\d-\d\dT[\d:.]+Z"), "2026-01-01T00:00:00.000Z"),
    (re.compile(r"[ \t]+"), " "),
)


class Block(NamedTuple):
    """A block of code, and where it stands."""

    place: str
    language: str
    words: tuple[str, ...]
    text: str
    is_run: bool


def blocks(page: Path) -> list[Block]:
    """Returns the blocks of a page, in order."""
    content = page.read_text()
    found = []
    for match in _BLOCK.finditer(content):
        line = content.count("\n", 0, match.start("info")) + 1
        language, *words = match["info"].split() or [""]
        place = f"{page.relative_to(REPOSITORY)}:{line}"
        found.append(Block(place, language, tuple(words), match["text"], not match["comment"]))
    return found


def is_printed(expected: str, output: str) -> bool:
    """Tells whether `output` holds the lines of `expected`, one after the other."""
    lines = [_pattern(line) for line in _same(expected).splitlines()]
    return re.search(r"^" + "".join(lines), _same(output) + "\n", _LINES) is not None


def _pattern(line: str) -> str:
    line = line.strip()
    if line == "…":
        return r"(?:[^\n]*\n)*?"
    return " ?" + "[^\n]*?".join(map(re.escape, line.split("…"))) + " ?\n"


def _same(text: str) -> str:
    for pattern, replacement in _VARYING:
        text = pattern.sub(replacement, text)
    return text
