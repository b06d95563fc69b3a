"""What runs beside the executions until the service stops: each function is a task of its own."""

import asyncio
import logging
import time
from typing import TYPE_CHECKING

from runner_service.errors import ExecutionEnd, UnavailableError
from runner_service.executions.change_service import ChangeService
from runner_service.executions.orphaned_state import delete_orphaned_sessions, delete_orphaned_state
from runner_service.executions.registry import Registry
from runner_service.executions.run_context import RunContext
from runner_service.executions.takeover import Takeover
from runner_service.executions.tenant_limits import Tenants
from runner_service.executions.tenant_retention import prune_tenant
from runner_service.settings import Settings
from runner_service.storage.audit import AuditStore
from runner_service.storage.event_log import EventLog, LogError

if TYPE_CHECKING:
    from runner_service.executions.approval_webhook import ApprovalWebhook

logger = logging.getLogger(__name__)

_CLEANUP_INTERVAL_SECONDS = 60.0
_REVERTS_INTERVAL_SECONDS = 3.0


async def prune_log(settings: Settings, log: EventLog, registry: Registry, audit: AuditStore, tenants: Tenants) -> None:
    """Deletes old executions from the log, now and every minute."""
    while True:
        try:
            pruned = await log.prune(max_age=settings.log_max_age, max_bytes=settings.log_max_bytes)
            logger.debug("log_pruned executions=%d", pruned)
            await audit.delete_before(time.time() - settings.audit_keep)
            for tenant, stored_bytes in tenants.with_stored_bytes():
                await prune_tenant(log, tenant, stored_bytes)
        except LogError as error:
            logger.warning("log_prune_failed error=%s", error)
        for execution in registry.in_memory():
            registry.drop_if_idle(execution)
        await asyncio.sleep(_CLEANUP_INTERVAL_SECONDS)


async def clean_up_agent_state(context: RunContext, registry: Registry) -> None:
    """Deletes what is kept of executions that ended while no process could delete it, now and every minute."""
    while True:
        try:
            await delete_orphaned_state(context.log, context.agent_loop, registry.is_active)
            await delete_orphaned_sessions(
                context.log,
                context.agent_loop,
                lambda: {each.record.session_id for each in registry.in_memory()},
            )
        except (LogError, ExecutionEnd) as error:
            logger.warning("delete_orphaned_state_failed error=%s", error)
        await asyncio.sleep(_CLEANUP_INTERVAL_SECONDS)


async def complete_reverts(changes: ChangeService) -> None:
    """Completes reverts while the service runs, since a sandbox may take its time."""
    try:
        await changes.complete_reverts()
    except LogError as error:  # the next revert of the execution tries again
        logger.warning("reverts_not_completed error=%s", error)


async def complete_reverts_of_others(changes: ChangeService, takeover: Takeover) -> None:
    """Completes the reverts of replicas that have died, until the service stops."""
    while True:
        if takeover.may_claim:
            await complete_reverts(changes)
        await asyncio.sleep(_REVERTS_INTERVAL_SECONDS)


async def announce_approvals(webhook: "ApprovalWebhook") -> None:
    """Announces requests for approval, until the service stops."""
    while True:
        try:
            await webhook.run()
        except LogError as error:
            logger.warning("approval_webhook_interrupted error=%s", error)
            await asyncio.sleep(_CLEANUP_INTERVAL_SECONDS)
        except UnavailableError:
            return
