"""Deletes what the agent loop still keeps of executions and sessions that are over.

It is left over when they are cancelled, pruned, or killed before it could be deleted.
"""

from collections.abc import Callable, Collection

from runner_service import states
from runner_service.agent.interface import AgentLoopLoading
from runner_service.identity import OwnerKey
from runner_service.storage.event_log import EventLog
from runner_service.storage.execution_filter import ExecutionFilter


async def delete_orphaned_state(log: EventLog, agent_loop: AgentLoopLoading, is_active: Callable[[str], bool]) -> None:
    """Deletes what is kept of executions that have ended.

    Raises:
        LogError: the log cannot be read.
        ExecutionEnd: the agent loop cannot be loaded.
    """
    loop = await agent_loop.once_loaded()
    for execution_id in await loop.kept():
        stored = None if is_active(execution_id) else await log.get(execution_id)
        # It may have been resumed meanwhile.
        if not is_active(execution_id) and (stored is None or states.is_final(stored.execution.state)):
            await loop.forget(execution_id, stored.execution.session_id if stored else "")


async def delete_orphaned_sessions(
    log: EventLog, agent_loop: AgentLoopLoading, active_sessions: Callable[[], Collection[str]]
) -> None:
    """Deletes conversations of sessions that have no execution in the log. Raises as `delete_orphaned_state`."""
    loop = await agent_loop.once_loaded()
    for session_id in await loop.kept_sessions():
        page = await log.list_executions(ExecutionFilter(session_id=OwnerKey(session_id)), limit=1)
        if not page.executions and session_id not in active_sessions():
            await loop.forget_session(session_id)
