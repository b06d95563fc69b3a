"""`diff` and `undo`."""

import click

from runner_service.cli.errors import help_epilog
from runner_service.cli.shell_completion import completes
from runner_service.cli.target import Target, target_options


@click.command(
    short_help="Shows what an execution changed in files.",
    epilog=help_epilog(
        "runner-service diff 3f9a1c2b7d5e",
        "runner-service diff 3f9a1c2b7d5e src/main.py --after 120",
        "runner-service diff 3f9a1c2b7d5e --stat",
    ),
)
@click.argument("execution_id", metavar="ID", shell_complete=completes("executions"))
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="N", help="Only what came after event N.")
@click.option("--to", type=click.IntRange(min=0), default=0, metavar="N", help="Only what came up to event N.")
@click.option("--stat", is_flag=True, help="Only the list of files.")
@target_options
def diff(execution_id: str, paths: tuple[str, ...], *, after: int, to: int, stat: bool, target: Target) -> None:
    """Shows what an execution changed in files, as a diff; secrets are redacted."""
    if stat and paths:
        raise click.UsageError("--stat lists all files: leave the PATHs out")
    from runner_service.cli.actions.changes import show_diff  # noqa: PLC0415  # gRPC, for this only

    show_diff(execution_id, paths, after=after, to=to, stat=stat, target=target)


@click.command(
    short_help="Puts files back as they were before an execution.",
    epilog=help_epilog(
        "runner-service undo 3f9a1c2b7d5e",
        "runner-service undo 3f9a1c2b7d5e --to 120 src/main.py",
        "runner-service undo 3f9a1c2b7d5e --redo",
    ),
)
@click.argument("execution_id", metavar="ID", shell_complete=completes("executions"))
@click.argument("paths", metavar="[PATH]...", nargs=-1)
@click.option("--to", type=click.IntRange(min=0), default=0, metavar="N", help="As they were at event N.")
@click.option("--redo", is_flag=True, help="Takes the latest undo back.")
@click.option("--skip-conflicts", is_flag=True, help="Leaves what somebody else has edited since, and goes on.")
@click.option("--dry-run", is_flag=True, help="Shows what would be done.")
@click.option("--yes", "-y", is_flag=True, help="Does not ask.")
@target_options
def undo(
    execution_id: str,
    paths: tuple[str, ...],
    *,
    to: int,
    redo: bool,
    skip_conflicts: bool,
    dry_run: bool,
    yes: bool,
    target: Target,
) -> int:
    """Puts files back as they were before an execution: all or none, and never over somebody else's edits.

    Shows what would be done, and asks.
    """
    if redo and to:
        raise click.UsageError("--redo and --to exclude each other")
    from runner_service.cli.actions.changes import Undo, undo_changes  # noqa: PLC0415  # as above

    wanted = Undo(execution_id, paths, to, redo=redo, skip_conflicts=skip_conflicts)
    return undo_changes(wanted, dry_run=dry_run, asks=not yes, target=target)
