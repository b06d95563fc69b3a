"""`check`."""

import asyncio
import os

import click

from runner_service.check import Check, run_checks
from runner_service.cli.environment import settings_from
from runner_service.cli.errors import ExitCode
from runner_service.settings import describe

_ORDER = ("fail", "warn", "ok")
_MARKS = {"ok": "ok  ", "warn": "warn", "fail": "FAIL"}


def print_checks() -> int:
    """Prints the checks, the worst first, and the settings; returns the exit code. Raises CommandError."""
    click.echo(f"{_mode_line(os.environ.get('MODE', ''))}\n")
    settings = settings_from(os.environ)
    checks = asyncio.run(run_checks(settings))
    for each in sorted(checks, key=lambda check: _ORDER.index(check.status)):
        _print_check(each)
    click.echo("\nThe settings in force:")
    rows = describe(settings)
    width = max(len(row.variable) for row in rows)
    for row in rows:
        click.echo(f"{row.variable:{width}}  {row.value or '-'}{'' if row.source == 'default' else '  (set)'}")
    return ExitCode.FAILED if any(each.status == "fail" for each in checks) else ExitCode.SUCCEEDED


def _mode_line(mode: str) -> str:
    if mode:
        return f"This checks what `serve` needs with MODE={mode}."
    return (
        "This checks what `serve` needs for cloud sandboxes, because MODE is unset.\n"
        "For this machine, as `run` has it when MODE is unset: MODE=local runner-service check"
    )


def _print_check(check: Check) -> None:
    click.echo(f"{_MARKS[check.status]}  {check.name}: {check.text}")
    if check.next_step:
        click.echo(f"      {check.next_step}")
