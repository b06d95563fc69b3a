"""The model's text as Markdown, block by block: each is laid out once, when it is complete."""

import re
from collections.abc import Iterator
from textwrap import dedent

from markdown_it import MarkdownIt
from rich.markdown import Markdown
from rich.theme import Theme

THEME = Theme({"markdown.code": "bold cyan", "markdown.code_block": "cyan"})
"""Colours that do for dark and for light terminals."""

_FENCE = re.compile(r"\s*(?P<marks>`{3,}|~{3,})(?P<rest>.*)")
_LONGEST_BLOCK = 200  # lines; a longer one is laid out in parts
_CODE_THEME = "ansi_dark"


class Blocks:
    """Puts lines together to blocks, which blank lines part, but for those in fenced code."""

    def __init__(self) -> None:
        self.pending: list[str] = []
        """The lines of the block that is not complete yet."""
        self._opening = ""  # the line that opened the fence we are in

    def feed(self, line: str) -> Iterator[str]:
        """Takes the next line, and yields the block that it completes."""
        if not line.strip() and not self._opening:
            yield from self.flush()
            return
        # Elsewhere an end of a line is meant as one, which in Markdown it would not be.
        is_code = self._is_code(line)
        self.pending.append(line if is_code else f"{line}  ")
        if len(self.pending) >= _LONGEST_BLOCK:
            opening = self._opening
            yield from self.flush()
            if opening:
                self._opening = opening
                self.pending = [opening]

    def flush(self) -> Iterator[str]:
        """Yields the last block, whether it is complete or not."""
        lines, self.pending, self._opening = self.pending, [], ""
        if lines:
            yield dedent("\n".join(lines))

    def _is_code(self, line: str) -> bool:
        """Tells whether the line is one of fenced code, its fences included."""
        fence = _FENCE.fullmatch(line)
        if not self._opening:
            if fence:
                self._opening = line
            return bool(fence)
        opened = _FENCE.fullmatch(self._opening)
        if fence and opened and fence["marks"].startswith(opened["marks"]) and not fence["rest"].strip():
            self._opening = ""
        return True


def laid_out(block: str) -> Markdown:
    """Returns a block for the terminal. Nothing of it is lost: what looks like HTML is text, links show where to."""
    markdown = Markdown("", code_theme=_CODE_THEME, hyperlinks=False)
    markdown.parsed = _PARSER.parse(block)
    return markdown


_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
