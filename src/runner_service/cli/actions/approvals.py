"""`approvals`, `approve` and `reject`."""

import asyncio
from collections.abc import Sequence

import click
from google.protobuf.json_format import MessageToJson

from runner_service.cli.actions.run import private_service_of
from runner_service.cli.connection import connected
from runner_service.cli.decisions import Decision, describe, submit
from runner_service.cli.errors import CommandError, ExitCode, print_message
from runner_service.cli.target import Target
from runner_service.cli.views import wording
from runner_service.cli.views.lines import printable
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

_COLUMNS = ("ID", "CALL", "WHAT", "WHY", "SESSION")


def list_pending(session_id: str, *, as_json: bool, target: Target) -> None:
    """Writes a table, or lines of JSON. Raises CommandError."""
    pending = asyncio.run(_pending(session_id, target))
    if as_json:
        for each in pending:
            click.echo(MessageToJson(each, preserving_proto_field_name=True, indent=None, ensure_ascii=False))
        return
    for line in wording.table([_COLUMNS, *map(_row, pending)]):
        click.echo(line)
    if not pending:
        print_message("nothing waits for a decision")


def decide(execution_id: str, tool_call_id: str, decision: Decision, target: Target) -> int:
    """Decides about a call, or the only one that waits, and says what becomes of the execution. Raises CommandError."""
    return asyncio.run(_decide(execution_id, tool_call_id, decision, target))


async def _pending(session_id: str, target: Target) -> list[runner_pb2.PendingApproval]:
    from runner_service.cli.connection import connected_for_reading  # noqa: PLC0415  # gRPC, where it is needed

    async with connected_for_reading(target) as connection:
        return [each async for each in connection.client.list_approvals(session_id=session_id)]


async def _decide(execution_id: str, tool_call_id: str, decision: Decision, target: Target) -> int:
    own = private_service_of(execution_id) if target.server is None else None
    async with connected(target, own, print_message) as connection:
        found = [each.request async for each in connection.client.list_approvals(execution_id=execution_id)]
        request = _chosen(found, tool_call_id, execution_id)
        if decision.always and not request.suggested_rules:
            raise CommandError("--always is not possible for this call: a rule asks about it each time", ExitCode.USAGE)
        state = await submit(connection.client, execution_id, request, decision)
        click.echo(f"{describe(request)}: {decision.action}")
        print_message(
            f"{execution_id} is {wording.state_name(state)}; to follow it: "
            f"runner-service events {execution_id} --follow{target.flags()}"
        )
    return ExitCode.SUCCEEDED


def _chosen(
    found: Sequence[event_pb2.ApprovalRequested], tool_call_id: str, execution_id: str
) -> event_pb2.ApprovalRequested:
    matching = [each for each in found if tool_call_id in ("", each.tool_call_id)]
    if len(matching) == 1:
        return matching[0]
    if not matching:
        raise CommandError(f"nothing of {execution_id} waits for a decision, or not the call that was named")
    calls = "\n".join(f"  {printable(each.tool_call_id)}  {describe(each)}" for each in matching)
    raise CommandError(f"several calls of {execution_id} wait; name one of them:\n{calls}", ExitCode.USAGE)


def _row(pending: runner_pb2.PendingApproval) -> tuple[str, ...]:
    return (
        pending.execution_id,
        printable(pending.request.tool_call_id),
        describe(pending.request),
        wording.one_line(pending.request.reason, 60),
        pending.session_id or "-",
    )
