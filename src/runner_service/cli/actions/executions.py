"""`events`, `ps`, `cancel` and `output`."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from google.protobuf.json_format import MessageToJson

from runner_service import states
from runner_service.cli.actions.run import exit_code_for
from runner_service.cli.completion_candidates import calls_of
from runner_service.cli.connection import Connection, connected
from runner_service.cli.errors import CommandError, ExitCode, print_message
from runner_service.cli.target import Target
from runner_service.cli.view_options import ViewOptions
from runner_service.cli.views import opened_view, wording
from runner_service.cli.views.lines import printable
from runner_service.client import RunnerClient
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

if TYPE_CHECKING:
    from runner_service.cli.private_service import PrivateService

_INTERRUPTED = (
    "it was interrupted when its service stopped, and waits for the secrets that it had: "
    "`runner-service run --id {}` with them and the same message lets it go on"
)
_COLUMNS = ("ID", "STATE", "AGE", "AGENT", "SESSION", "LAST EVENT")
_READ_BYTES = 1 << 20
_POLL_INTERVAL_SECONDS = 0.2
_DAY_SECONDS = 86_400


def show_events(execution_id: str, *, after: int, follow: bool, view: ViewOptions, target: Target) -> int:
    """Shows the events above `after`, and returns the exit code: of the outcome, if `follow`. Raises CommandError."""
    return asyncio.run(_show_events(execution_id, after, follow, view, target))


def list_executions(*, with_ended: bool, session_id: str, as_json: bool, target: Target) -> None:
    """Writes a table, or lines of JSON. Raises CommandError."""
    shown = () if with_ended else states.OPEN_STATES
    executions: list[runner_pb2.Execution] = []
    hint = "" if with_ended else "nothing runs; --all lists what has ended, too"
    try:
        executions = asyncio.run(_list(shown, session_id, target))
    except _NothingYetError as nothing:
        hint = nothing.message
    if as_json:
        for execution in executions:
            click.echo(MessageToJson(execution, preserving_proto_field_name=True, indent=None, ensure_ascii=False))
        return
    for line in _table([_COLUMNS, *map(_row, executions)]):
        click.echo(line)
    if hint and not executions:
        print_message(hint)


def cancel_execution(execution_id: str, reason: str, target: Target) -> None:
    """Cancels an execution, and prints its state. Raises CommandError."""
    state = asyncio.run(_cancel(execution_id, reason, target))
    word = wording.state_name(state)
    click.echo(
        f"{execution_id} had already ended: {word}" if states.is_final(state) else f"{execution_id} was {word}: ending"
    )


def write_output(execution_id: str, call: str, *, stderr: bool, follow: bool, target: Target) -> None:
    """Writes the bytes to standard output. Raises CommandError."""
    stream = runner_pb2.OUTPUT_STREAM_STDERR if stderr else runner_pb2.OUTPUT_STREAM_STDOUT
    asyncio.run(_write_output(execution_id, call, stream, follow, target))


class _NothingYetError(CommandError):
    """There is no service and no event log."""

    def __init__(self, state_dir: Path) -> None:
        super().__init__(
            f"nothing has run yet that is kept in STATE_DIR {state_dir}, and no service holds it\n"
            "For another service name it with --server, or with the STATE_DIR that it has."
        )


def _private_service() -> "PrivateService":
    """Returns the service that holds STATE_DIR, or can be started to read its event log."""
    from runner_service.cli.private_service import PrivateService  # noqa: PLC0415  # 130 ms, most of them pydantic's

    own = PrivateService(os.environ, anywhere=True)
    if not own.is_running() and not own.has_log():
        raise _NothingYetError(own.settings.state_dir)
    return own


@asynccontextmanager
async def _connected(target: Target) -> AsyncIterator[Connection]:
    async with connected(target, _private_service() if target.server is None else None, print_message) as connection:
        yield connection


async def _show_events(execution_id: str, after: int, follow: bool, options: ViewOptions, target: Target) -> int:
    # Call numbers and labels follow from the events before.
    first = after if options in {ViewOptions.JSON, ViewOptions.QUIET} else 0
    async with (
        _connected(target) as connection,
        opened_view(options, after=after, hint="Ctrl-C stops watching") as view,
    ):
        execution = await connection.client.get(execution_id)
        newest = execution.last_sequence
        if newest <= first and not follow:
            return ExitCode.SUCCEEDED
        if states.is_interrupted(execution.state) and follow:
            view.show_message(_INTERRUPTED.format(execution_id))
        exit_code = ExitCode.SUCCEEDED
        async with aclosing(connection.client.watch(execution_id, first)) as events:
            async for event in events:
                connection.report_recovery()
                view.show(event)
                if event.HasField("finished") and follow:
                    exit_code = exit_code_for(event.finished.state)
                if event.sequence >= newest and not follow:
                    break
    return exit_code


async def _list(
    states: Sequence["event_pb2.State.ValueType"], session_id: str, target: Target
) -> list[runner_pb2.Execution]:
    async with _connected(target) as connection:
        return [execution async for execution in connection.client.list(states=states, session_id=session_id)]


async def _cancel(execution_id: str, reason: str, target: Target) -> "event_pb2.State.ValueType":
    async with _connected(target) as connection:
        return await connection.client.cancel(execution_id, reason)


async def _write_output(
    execution_id: str, call: str, stream: "runner_pb2.OutputStream.ValueType", follow: bool, target: Target
) -> None:
    async with _connected(target) as connection:
        client = connection.client
        call_id = await _call_id(client, execution_id, call)
        offset = 0
        while True:
            piece = await client.read_output(execution_id, call_id, stream, offset=offset, max_bytes=_READ_BYTES)
            offset = piece.next_offset
            sys.stdout.buffer.write(piece.data)
            sys.stdout.buffer.flush()
            if piece.complete or not (piece.data or follow):
                return
            if not piece.data:
                await asyncio.sleep(_POLL_INTERVAL_SECONDS)


async def _call_id(client: RunnerClient, execution_id: str, call: str) -> str:
    """Returns the tool call id of `call`, which is an id or a number."""
    if not call.isdecimal():
        return call
    calls = [each.tool_call_id for each in await calls_of(client, execution_id)]
    if call in calls:
        return call
    if 0 < int(call) <= len(calls):
        return calls[int(call) - 1]
    raise CommandError(
        f"{execution_id} has made {wording.counted(len(calls), 'tool call')} so far, and {call} is none of them\n"
        f"`runner-service events {execution_id}` shows them with their numbers."
    )


def _row(execution: runner_pb2.Execution) -> tuple[str, ...]:
    return (
        execution.execution_id,
        wording.state_name(execution.state),
        _age(execution),
        printable(execution.agent_name) or "-",
        execution.session_id or "-",
        str(execution.last_sequence),
    )


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _age(execution: runner_pb2.Execution) -> str:
    age = (datetime.now(UTC) - execution.create_time.ToDatetime(UTC)).total_seconds()
    return f"{age / _DAY_SECONDS:.1f} days" if age >= _DAY_SECONDS else wording.seconds(max(0.0, age))
