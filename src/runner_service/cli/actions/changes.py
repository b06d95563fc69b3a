"""`diff` and `undo`."""

import asyncio
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import click

from runner_service.cli.connection import connected_for_reading
from runner_service.cli.errors import CommandError, ExitCode, print_message
from runner_service.cli.prompts import is_interactive
from runner_service.cli.target import Target
from runner_service.cli.views.file_changes import change_line, summary_line
from runner_service.cli.views.lines import visible
from runner_service.cli.views.wording import counted
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

_COLOURS = {"+": "green", "-": "red", "@": "cyan"}
_HEADERS = ("diff ", "--- ", "+++ ", "new ", "old ", "deleted ")


class Undo(NamedTuple):
    """What is to be undone."""

    execution_id: str
    paths: tuple[str, ...]
    to_sequence: int
    redo: bool
    skip_conflicts: bool

    def request(self, *, dry_run: bool) -> runner_pb2.RevertChangesRequest:
        """Returns the request."""
        return runner_pb2.RevertChangesRequest(
            execution_id=self.execution_id,
            paths=self.paths,
            to_sequence=self.to_sequence,
            undo_revert=self.redo,
            skip_conflicts=self.skip_conflicts,
            dry_run=dry_run,
        )


def show_diff(execution_id: str, paths: tuple[str, ...], *, after: int, to: int, stat: bool, target: Target) -> None:
    """Shows the diff, coloured and in a pager on a terminal, or the list of files. Raises CommandError."""
    if stat:
        _print_changes(asyncio.run(_list(execution_id, after, to, target)))
        return
    request = runner_pb2.GetDiffRequest(execution_id=execution_id, paths=paths, after_sequence=after, to_sequence=to)
    response = asyncio.run(_diff(request, target))
    if sys.stdout.isatty():
        click.echo_via_pager(_coloured(response.diff.splitlines(keepends=True)))
    else:
        click.echo(response.diff, nl=False)
    if response.truncated:
        print_message("the diff is not complete: name the files to see more of them")


def undo_changes(wanted: Undo, *, dry_run: bool, asks: bool, target: Target) -> int:
    """Shows what would be put back, asks, and does it; returns the exit code. Raises CommandError."""
    plan = asyncio.run(_revert(wanted.request(dry_run=True), target))
    _print_changes(plan.reverted)
    for conflict in plan.conflicts:
        click.echo(f"! {visible(conflict.path)}: {conflict.reason}")
    if dry_run:
        return ExitCode.SUCCEEDED
    if plan.conflicts and not wanted.skip_conflicts:
        raise CommandError(
            f"nothing was put back: {counted(len(plan.conflicts), 'file')} cannot be; --skip-conflicts leaves them"
        )
    if not plan.reverted:
        click.echo("nothing to put back")
        return ExitCode.SUCCEEDED
    if asks and not _confirmed(len(plan.reverted)):
        return ExitCode.INTERRUPTED
    done = asyncio.run(_revert(wanted.request(dry_run=False), target))
    click.echo(f"{counted(len(done.reverted), 'file')} put back")
    return ExitCode.SUCCEEDED


def _confirmed(count: int) -> bool:
    if not is_interactive():
        raise CommandError("nothing was put back: there is no terminal to ask at; add --yes")
    return click.confirm(f"put back {counted(count, 'file')}?", err=True)


async def _list(execution_id: str, after: int, to: int, target: Target) -> list[event_pb2.FileChange]:
    async with connected_for_reading(target) as connection:
        return [each async for each in connection.client.list_file_changes(execution_id, after, to)]


async def _diff(request: runner_pb2.GetDiffRequest, target: Target) -> runner_pb2.GetDiffResponse:
    async with connected_for_reading(target) as connection:
        return await connection.client.get_diff(request)


async def _revert(request: runner_pb2.RevertChangesRequest, target: Target) -> runner_pb2.RevertChangesResponse:
    async with connected_for_reading(target) as connection:
        return await connection.client.revert_changes(request)


def _print_changes(changes: Iterable[event_pb2.FileChange]) -> None:
    listed = list(changes)
    for change in listed:
        click.echo(change_line(change))
    if listed:
        click.echo(summary_line(listed))


def _coloured(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        text = visible(line.rstrip("\n"))
        is_header = line.startswith(_HEADERS)
        yield click.style(text, bold=is_header, fg=None if is_header else _COLOURS.get(line[:1])) + "\n"
