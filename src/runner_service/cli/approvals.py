"""`approvals`, `approve` and `reject`."""

import click

from runner_service.cli.errors import help_epilog
from runner_service.cli.shell_completion import completes
from runner_service.cli.target import Target, target_options

_id_argument = click.argument("execution_id", metavar="ID", shell_complete=completes("open executions"))
_call_argument = click.argument("tool_call_id", metavar="[CALL]", default="")


@click.command(epilog=help_epilog("runner-service approvals", "runner-service approvals --json | jq -r .execution_id"))
@click.option(
    "--session",
    "session_id",
    default="",
    metavar="ID",
    shell_complete=completes("sessions"),
    help="Only those of this session.",
)
@click.option("--json", "as_json", is_flag=True, help="One request per line, as the proto's JSON.")
@target_options
def approvals(*, session_id: str, as_json: bool, target: Target) -> None:
    """Lists the tool calls that wait for your decision."""
    from runner_service.cli.actions.approvals import list_pending  # noqa: PLC0415  # gRPC and protobuf, for this only

    list_pending(session_id, as_json=as_json, target=target)


@click.command(
    epilog=help_epilog(
        "runner-service approve 3f9a1c2b7d5e",
        "runner-service approve 3f9a1c2b7d5e call_7 --always",
    )
)
@_id_argument
@_call_argument
@click.option("--always", is_flag=True, help="Equal calls, too, as long as the session lasts.")
@click.option("--comment", "-m", default="", metavar="TEXT", help="What the model is told with it.")
@target_options
def approve(execution_id: str, tool_call_id: str, *, always: bool, comment: str, target: Target) -> int:
    """Lets a tool call of execution ID run: CALL, or the only one that waits."""
    from runner_service.cli.actions.approvals import decide  # noqa: PLC0415  # as above
    from runner_service.cli.decisions import Decision  # noqa: PLC0415  # as above

    return decide(execution_id, tool_call_id, Decision("approve", comment, always=always), target)


@click.command(epilog=help_epilog("runner-service reject 3f9a1c2b7d5e -m 'use the staging database'"))
@_id_argument
@_call_argument
@click.option("--comment", "-m", default="", metavar="TEXT", help="Why, for the model.")
@click.option("--skip", is_flag=True, help="Not refused, only left out: the model is told to go on without it.")
@target_options
def reject(execution_id: str, tool_call_id: str, *, comment: str, skip: bool, target: Target) -> int:
    """Does not let a tool call of execution ID run: CALL, or the only one that waits."""
    from runner_service.cli.actions.approvals import decide  # noqa: PLC0415  # as above
    from runner_service.cli.decisions import Decision  # noqa: PLC0415  # as above

    return decide(execution_id, tool_call_id, Decision("skip" if skip else "reject", comment), target)
