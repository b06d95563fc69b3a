"""Retention by what a tenant may keep: its oldest finished executions go first, others' never."""

import logging

from runner_service import states
from runner_service.storage.event_log import EventLog
from runner_service.storage.execution_filter import ExecutionFilter

logger = logging.getLogger(__name__)

_PAGE = 500


async def prune_tenant(log: EventLog, tenant: str, max_bytes: int) -> int:
    """Deletes a tenant's oldest finished executions while all of its own together store more than `max_bytes`.

    Returns how many. Raises LogError.
    """
    kept, key, excess = 0, 0, list[str]()
    while True:
        page = await log.list_executions(ExecutionFilter(tenant=tenant), limit=_PAGE, before_key=key)
        for record in page.executions:  # the newest first
            kept += record.usage.stored_bytes
            if kept > max_bytes and states.is_final(record.state):
                excess.append(record.execution_id)
        key = page.next_key
        if not key:
            break
    for execution_id in reversed(excess):
        await log.delete(execution_id)
    if excess:
        logger.info("tenant_pruned tenant=%s executions=%d", tenant, len(excess))
    return len(excess)
