"""The model's text as Markdown, rendered block by block as each is complete."""

import re
from collections.abc import Iterator
from textwrap import dedent

from markdown_it import MarkdownIt
from rich.markdown import Markdown
from rich.theme import Theme

THEME = Theme({"markdown.code": "bold cyan", "markdown.code_block": "cyan"})
"""Colours that do for dark and for light terminals."""

_FENCE = re.compile(r"\s*(?P<marks>`{3,}|~{3,})(?P<rest>.*)")
_MAX_BLOCK_LINES = 200  # lines; a longer one is laid out in parts
_CODE_THEME = "ansi_dark"


class Blocks:
    """Groups lines into blocks, separated by blank lines outside fenced code."""

    def __init__(self) -> None:
        self.pending: list[str] = []
        """The lines of the block that is not complete yet."""
        self._opening = ""  # the line that opened the fence we are in

    def feed(self, line: str) -> Iterator[str]:
        """Adds a line, and yields the block that it completes."""
        if not line.strip() and not self._opening:
            yield from self.flush()
            return
        # Outside code keep line breaks, which Markdown would join.
        is_code = self._is_code(line)
        self.pending.append(line if is_code else f"{line}  ")
        if len(self.pending) >= _MAX_BLOCK_LINES:
            opening = self._opening
            yield from self.flush()
            if opening:
                self._opening = opening
                self.pending = [opening]

    def flush(self) -> Iterator[str]:
        """Yields the unfinished block, if any."""
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


def render_markdown(block: str) -> Markdown:
    """Renders a block. HTML is shown as text, and links with their targets."""
    markdown = Markdown("", code_theme=_CODE_THEME, hyperlinks=False)
    markdown.parsed = _PARSER.parse(block)
    return markdown


_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["strikethrough", "table"])
