"""What the log knows that `run` goes on with: the newest session here, and the directory of an execution."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

from runner_service.cli.errors import CommandError, ExitCode
from runner_service.cli.local_log import NoLogError, opened_local_log
from runner_service.cli.target import Target
from runner_service.identity import OwnerKey
from runner_service.storage.execution_filter import ExecutionFilter
from runner_service.v1 import agent_runner_pb2 as runner_pb2

_NOTHING = "there is no session to continue here: run something first, or name a session with --session"


def session_to_continue(target: Target, roots: Sequence[Path]) -> str:
    """Returns the newest session that worked in or below one of `roots`.

    A service that is named with --server has directories of its own: there it is the newest one of all.

    Raises:
        CommandError: there is none.
    """
    try:
        with opened_local_log(target) as log:
            if log is None:
                newest = asyncio.run(_newest_session_of_service(target))
            else:
                newest = next((each.session_id for each in log.list(ExecutionFilter()) if _is_here(each, roots)), "")
    except NoLogError:
        newest = ""
    if not newest:
        raise CommandError(_NOTHING, ExitCode.USAGE)
    return newest


def stored_root(target: Target, execution_id: str, session_id: str) -> Path | None:
    """Returns the directory in which an execution, or else the newest one of a session, worked on this machine."""
    try:
        with opened_local_log(target) as log:
            if log is None:
                return None
            known = log.get(execution_id) if execution_id else None
            if known is None and session_id:
                known = next(log.list(ExecutionFilter(session_id=OwnerKey(session_id))), None)
    except NoLogError:
        return None
    return Path(known.root) if known and known.mode == "local" and Path(known.root).is_dir() else None


def _is_here(execution: runner_pb2.Execution, roots: Sequence[Path]) -> bool:
    if not (execution.session_id and execution.root):
        return False
    return any(Path(execution.root).is_relative_to(root.resolve()) for root in roots)


async def _newest_session_of_service(target: Target) -> str:
    from runner_service.cli.connection import connected_for_reading  # noqa: PLC0415  # gRPC, where it is needed

    async with connected_for_reading(target) as connection:
        async for execution in connection.client.list():
            if execution.session_id:
                return execution.session_id
    return ""
