"""Prompts at the terminal."""

import sys

import click

from runner_service.cli.progress import clear_progress


def prompt_secret(prompt: str) -> str:
    """Prompts for a line without echo."""
    clear_progress()
    answer: str = click.prompt(prompt, hide_input=True, default="", show_default=False, err=True)
    return answer.strip()


def is_interactive() -> bool:
    """Tells whether there is a terminal to prompt at."""
    return sys.stdin.isatty() and sys.stderr.isatty()
