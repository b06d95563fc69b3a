"""A temporary progress line at the terminal."""

import os
import sys

_CLEAR_LINE = "\r\x1b[K"


class _State:
    is_shown = False


def show_progress(text: str) -> None:
    """Shows `text` on stderr, if that is a terminal."""
    if sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
        sys.stderr.write(f"{text} …")
        sys.stderr.flush()
        _State.is_shown = True


def clear_progress() -> None:
    """Takes the line away, if there is one."""
    if _State.is_shown:
        sys.stderr.write(_CLEAR_LINE)
        sys.stderr.flush()
        _State.is_shown = False
