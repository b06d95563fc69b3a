"""`events`."""

import asyncio
from contextlib import aclosing

from runner_service import states
from runner_service.cli.errors import ExitCode, exit_code_for
from runner_service.cli.local_log import execution_in, opened_local_log
from runner_service.cli.target import Target
from runner_service.cli.view_options import ViewOptions
from runner_service.cli.views import opened_view
from runner_service.storage.sqlite.read_only_log import ReadOnlyLog

_INTERRUPTED = (
    "it was interrupted when its service stopped, and waits for the secrets that it had: "
    "`runner-service run --id {}` with them and the same message lets it go on"
)


def show_events(execution_id: str, *, after: int, follow: bool, view: ViewOptions, target: Target) -> int:
    """Shows the events above `after`, and returns the exit code: of the outcome, if `follow`. Raises CommandError."""
    with opened_local_log(target) as log:
        if log:
            execution = execution_in(log, execution_id)
            if not follow or states.is_final(execution.state):
                shown = asyncio.run(_show_from_log(log, execution_id, after, view))
                return exit_code_for(execution.state) if follow else shown
    return asyncio.run(_show_from_service(execution_id, after, follow, view, target))


async def _show_from_log(log: ReadOnlyLog, execution_id: str, after: int, options: ViewOptions) -> int:
    async with opened_view(options, after=after, hint="") as view:
        for event in log.events(execution_id, _first(after, options)):
            view.show(event)
    return ExitCode.SUCCEEDED


async def _show_from_service(execution_id: str, after: int, follow: bool, options: ViewOptions, target: Target) -> int:
    from runner_service.cli.connection import connected_for_reading  # noqa: PLC0415  # gRPC, where it is needed

    first = _first(after, options)
    async with (
        connected_for_reading(target) as connection,
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


def _first(after: int, options: ViewOptions) -> int:
    """Returns where to begin: views for people derive call numbers and labels from the events before."""
    return after if options in {ViewOptions.JSON, ViewOptions.QUIET} else 0
