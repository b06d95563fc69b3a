"""`ps`."""

import asyncio
from contextlib import aclosing
from datetime import UTC, datetime

import click
from google.protobuf.json_format import MessageToJson

from runner_service.cli.errors import CommandError, print_message
from runner_service.cli.local_log import NoLogError, opened_local_log
from runner_service.cli.target import Target
from runner_service.cli.views import wording
from runner_service.cli.views.lines import printable
from runner_service.storage.execution_filter import ExecutionFilter
from runner_service.v1 import agent_runner_pb2 as runner_pb2

_COLUMNS = ("ID", "STATE", "AGE", "AGENT", "SESSION", "LAST EVENT")
_DAY_SECONDS = 86_400


def list_executions(wanted: ExecutionFilter, *, as_json: bool, target: Target) -> None:
    """Writes a table, or lines of JSON. Raises CommandError."""
    hint = "nothing runs; --all lists what has ended, too" if wanted.states else "no execution matches"
    executions: list[runner_pb2.Execution] = []
    try:
        with opened_local_log(target) as log:
            executions = list(log.list(wanted)) if log else asyncio.run(_list_from_service(wanted, target))
    except NoLogError as nothing:
        hint = nothing.message
    if as_json:
        for execution in executions:
            click.echo(MessageToJson(execution, preserving_proto_field_name=True, indent=None, ensure_ascii=False))
        return
    for line in wording.table([_COLUMNS, *map(_row, executions)]):
        click.echo(line)
    if not executions:
        print_message(hint)


def newest_execution_id(target: Target) -> str:
    """Returns the id of the newest execution. Raises CommandError if there is none."""
    with opened_local_log(target) as log:
        newest = next(log.list(ExecutionFilter()), None) if log else asyncio.run(_newest_from_service(target))
    if newest is None:
        raise CommandError("nothing has run yet")
    return newest.execution_id


async def _newest_from_service(target: Target) -> runner_pb2.Execution | None:
    from runner_service.cli.connection import connected_for_reading  # noqa: PLC0415  # gRPC, where it is needed

    async with connected_for_reading(target) as connection, aclosing(connection.client.list()) as executions:
        return await anext(executions, None)


async def _list_from_service(wanted: ExecutionFilter, target: Target) -> list[runner_pb2.Execution]:
    from runner_service.cli.connection import connected_for_reading  # noqa: PLC0415  # gRPC, where it is needed

    async with connected_for_reading(target) as connection:
        return [
            execution
            async for execution in connection.client.list(
                states=wanted.states,
                session_id=wanted.session_id,
                labels=wanted.labels,
                created_after=_datetime(wanted.created_after),
            )
        ]


def _datetime(nanoseconds: int | None) -> datetime | None:
    return None if nanoseconds is None else datetime.fromtimestamp(nanoseconds / 1e9, UTC)


def _row(execution: runner_pb2.Execution) -> tuple[str, ...]:
    return (
        execution.execution_id,
        wording.state_name(execution.state),
        _age(execution),
        printable(execution.agent_name) or "-",
        execution.session_id or "-",
        str(execution.last_sequence),
    )


def _age(execution: runner_pb2.Execution) -> str:
    age = (datetime.now(UTC) - execution.create_time.ToDatetime(UTC)).total_seconds()
    return f"{age / _DAY_SECONDS:.1f} days" if age >= _DAY_SECONDS else wording.seconds(max(0.0, age))
