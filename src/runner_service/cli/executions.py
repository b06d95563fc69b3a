"""`events`, `ps`, `cancel` and `output`."""

import time

import click

from runner_service.cli.errors import help_epilog
from runner_service.cli.parameters import AGE, key_value_pairs
from runner_service.cli.shell_completion import completes
from runner_service.cli.target import Target, target_options
from runner_service.cli.view_options import ViewOptions, view_options


@click.command(
    epilog=help_epilog(
        "runner-service events 3f9a1c2b7d5e",
        "runner-service events --last --follow",
        "runner-service events 3f9a1c2b7d5e --after 120 --json",
        "runner-service events 3f9a1c2b7d5e --html > run.html",
    )
)
@click.argument("execution_id", metavar="[ID]", default="", shell_complete=completes("executions"))
@click.option("--last", is_flag=True, help="The newest execution, in place of an ID.")
@click.option("--after", type=click.IntRange(min=0), default=0, metavar="N", help="Only events above this sequence.")
@click.option("--follow", "-f", is_flag=True, help="Waits for what is still to come; the exit code tells the outcome.")
@click.option("--html", "as_html", is_flag=True, help="One HTML file for a browser, which needs no network.")
@view_options
@target_options
def events(
    execution_id: str, *, last: bool, after: int, follow: bool, as_html: bool, view: ViewOptions, target: Target
) -> int:
    """Shows the events of an execution again, from the log."""
    if last == bool(execution_id):
        raise click.UsageError("give the ID of an execution, or --last for the newest one")
    if as_html:
        if view != ViewOptions.BEST or after:
            raise click.UsageError("--html shows the whole execution: leave --after and other views out")
        view = ViewOptions.HTML
    from runner_service.cli.actions.events import show_events  # noqa: PLC0415  # gRPC, for this only
    from runner_service.cli.actions.ps import newest_execution_id  # noqa: PLC0415  # protobuf, for this only

    execution_id = execution_id or newest_execution_id(target)
    return show_events(execution_id, after=after, follow=follow, view=view, target=target)


@click.command(
    epilog=help_epilog(
        "runner-service ps",
        "runner-service ps --all --session fix",
        "runner-service ps --all --label ticket=4711 --since 2h",
        "runner-service ps --all --json | jq -r .execution_id",
    )
)
@click.option("--all", "-a", "with_ended", is_flag=True, help="Those that have ended, too.")
@click.option(
    "--session",
    "session_id",
    default="",
    metavar="ID",
    shell_complete=completes("sessions"),
    help="Only those of this session.",
)
@click.option(
    "--label", "labels", multiple=True, metavar="KEY=VALUE", help="Only those with this label; all of them, if several."
)
@click.option("--since", type=AGE, metavar="AGE", help="Only those accepted in this time, such as 30m, 2h or 1d.")
@click.option("--json", "as_json", is_flag=True, help="One execution per line, as the proto's JSON.")
@target_options
def ps(
    *,
    with_ended: bool,
    session_id: str,
    labels: tuple[str, ...],
    since: float | None,
    as_json: bool,
    target: Target,
) -> None:
    """Lists the executions that have not ended, the newest first."""
    from runner_service import states  # noqa: PLC0415  # protobuf, for this only
    from runner_service.cli.actions.ps import list_executions  # noqa: PLC0415  # the same
    from runner_service.identity import OwnerKey  # noqa: PLC0415  # the same
    from runner_service.storage.execution_filter import ExecutionFilter  # noqa: PLC0415  # the same

    created_after = None if since is None else time.time_ns() - int(since * 1e9)
    wanted = ExecutionFilter(
        () if with_ended else states.OPEN_STATES,
        OwnerKey(session_id),
        dict(key_value_pairs("--label", labels)),
        created_after,
    )
    list_executions(wanted, as_json=as_json, target=target)


@click.command(
    epilog=help_epilog(
        "runner-service cancel 3f9a1c2b7d5e",
        'runner-service cancel 3f9a1c2b7d5e --reason "wrong branch"',
    )
)
@click.argument("execution_id", metavar="ID", shell_complete=completes("open executions"))
@click.option("--reason", default="", metavar="TEXT", help="Why, for whoever watches.")
@target_options
def cancel(execution_id: str, *, reason: str, target: Target) -> None:
    """Ends an execution and all its processes."""
    from runner_service.cli.actions.cancel import cancel_execution  # noqa: PLC0415  # gRPC, for this only

    cancel_execution(execution_id, reason, target)


@click.command(
    epilog=help_epilog("runner-service delete 3f9a1c2b7d5e", "runner-service delete --session fix"),
)
@click.argument("execution_ids", metavar="[ID]...", nargs=-1, shell_complete=completes("executions"))
@click.option(
    "--session", "session_id", default="", metavar="ID", shell_complete=completes("sessions"), help="A session."
)
@target_options
def delete(execution_ids: tuple[str, ...], *, session_id: str, target: Target) -> None:
    """Deletes executions that have ended, or a session with all of its own: events, output, conversation, sandbox.

    The directory that the agent worked in stays, unless the session had one of its own.
    """
    if bool(execution_ids) == bool(session_id):
        raise click.UsageError("give the IDs of executions, or a --session")
    from runner_service.cli.actions.delete import delete_executions  # noqa: PLC0415  # gRPC, for this only

    delete_executions(execution_ids, session_id, target)


@click.command(
    short_help="Writes what a command of an execution wrote.",
    epilog=help_epilog(
        "runner-service output 3f9a1c2b7d5e 2 > build.log",
        "runner-service output 3f9a1c2b7d5e call_Kq8x --stderr --follow",
    ),
)
@click.argument("execution_id", metavar="ID", shell_complete=completes("executions"))
@click.argument("call", metavar="CALL", shell_complete=completes("calls"))
@click.option("--stderr", is_flag=True, help="What it wrote to standard error instead.")
@click.option("--follow", "-f", is_flag=True, help="Waits for more until the execution ends.")
@click.option("--raw", is_flag=True, help="Control characters as they are, on a terminal too.")
@target_options
def output(execution_id: str, call: str, *, stderr: bool, follow: bool, raw: bool, target: Target) -> None:
    """Writes what a command of an execution wrote, byte for byte. CALL is its number in `events`, or its id.

    On a terminal control characters are shown and not obeyed; --raw sends them.
    """
    from runner_service.cli.actions.output import write_output  # noqa: PLC0415  # gRPC, for this only

    write_output(execution_id, call, stderr=stderr, follow=follow, raw=raw, target=target)
