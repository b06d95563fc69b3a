"""The event log in STATE_DIR, read without a service."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from runner_service.cli.errors import CommandError, ExitCode
from runner_service.cli.target import Target
from runner_service.state_dir import find_service, state_dir_from
from runner_service.storage.sqlite.read_only_log import ReadOnlyLog, UnreadableLogError, read_only_log
from runner_service.storage.sqlite.schema import EVENTS_FILE
from runner_service.v1 import agent_runner_pb2 as runner_pb2


class NoLogError(CommandError):
    """There is no service and no event log."""


@contextmanager
def opened_local_log(target: Target) -> Iterator[ReadOnlyLog | None]:
    """Opens the log; None if a service has to be asked: another one is named, or this version cannot read the file.

    Raises:
        NoLogError: nothing has ever run here, and no service is named.
    """
    if target.server is not None:
        yield None
        return
    state_dir = state_dir_from(os.environ)
    _require_possible(state_dir)
    is_held = find_service(state_dir) is not None
    if not is_held and not (state_dir / EVENTS_FILE).exists():
        raise NoLogError(
            f"nothing has run yet that is kept in STATE_DIR {state_dir}, and no service holds it\n"
            "Name another service with --server, or set the STATE_DIR that it has."
        )
    try:
        log = read_only_log(state_dir, is_held=is_held)
        opened = log.__enter__()
    except UnreadableLogError:
        yield None
        return
    try:
        yield opened
    finally:
        log.__exit__(None, None, None)


def _require_possible(state_dir: Path) -> None:
    """Raises CommandError if there can be no such directory."""
    nearest = next(path for path in (state_dir, *state_dir.parents) if path.exists())
    if not nearest.is_dir():
        text = f"STATE_DIR {state_dir} cannot be used: {nearest} is no directory; set it to one that can be written"
        raise CommandError(text, ExitCode.CONFIG)


def execution_in(log: ReadOnlyLog, execution_id: str) -> runner_pb2.Execution:
    """Returns an execution. Raises CommandError if the log does not have it."""
    execution = log.get(execution_id)
    if execution is None:
        raise CommandError(
            f"execution {execution_id} is not in the log; it never was, or it was pruned\n"
            "`runner-service ps --all` lists the executions that there are."
        )
    return execution
