"""Questions to whoever sits at the terminal."""

import sys

import click


def ask_hidden(prompt: str) -> str:
    """Asks for a line that is not shown."""
    answer: str = click.prompt(prompt, hide_input=True, default="", show_default=False, err=True)
    return answer.strip()


def at_a_terminal() -> bool:
    """Tells whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stderr.isatty()
