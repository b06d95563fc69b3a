"""Puts the executions of this process together, runs what has to run beside them, and takes them apart again."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from runner_service.events.writer import LogWriter
from runner_service.executions import background
from runner_service.executions.approval_service import ApprovalService
from runner_service.executions.audit import Audit
from runner_service.executions.change_service import ChangeService
from runner_service.executions.daemon_requests import DaemonRequests
from runner_service.executions.disk_guard import DiskGuard
from runner_service.executions.handover import Handover
from runner_service.executions.lifecycle import Lifecycle
from runner_service.executions.ownership import ExecutionOwnership
from runner_service.executions.queue import ExecutionQueue
from runner_service.executions.readiness import DISK, Readiness, require_ready
from runner_service.executions.recovery import Recovery
from runner_service.executions.registry import Registry
from runner_service.executions.replica_reports import ReplicaReporter
from runner_service.executions.resumer import Resumer
from runner_service.executions.run_context import RunContext
from runner_service.executions.service import ExecutionService
from runner_service.executions.shared_queue import SharedQueue
from runner_service.executions.starter import Starter
from runner_service.executions.takeover import Takeover
from runner_service.executions.tenant_limits import Tenants
from runner_service.settings import Settings
from runner_service.storage.backend import Storage
from runner_service.telemetry import metrics
from runner_service.telemetry.loop_lag import LoopLag

if TYPE_CHECKING:
    from runner_service.executions.secret_box import SecretBox
    from runner_service.stigmer.daemon import Daemon
    from runner_service.storage.queue import Queue

_SETTLE_TIMEOUT_SECONDS = 1.0

_Background = dict[str, Callable[[], Coroutine[Any, Any, None]]]
"""What runs beside the executions until it is cancelled, by the names of its tasks."""


class RunningExecutions(NamedTuple):
    """The executions of this process."""

    service: ExecutionService
    approvals: ApprovalService
    changes: ChangeService
    recovery: Recovery
    reporter: ReplicaReporter


class _Parts(NamedTuple):
    """What is put together; the last two only where there are replicas."""

    running: RunningExecutions
    registry: Registry
    lifecycle: Lifecycle
    queue: SharedQueue | None = None
    takeover: Takeover | None = None


@asynccontextmanager
async def running_executions(
    settings: Settings,
    storage: Storage,
    writer: LogWriter,
    context: RunContext,
    *,
    readiness: Readiness,
    daemon: "Daemon | None",
    audit: Audit,
    lag: LoopLag,
) -> AsyncIterator[RunningExecutions]:
    """Holds the executions of this process; whatever still runs when the context ends is left INTERRUPTED."""
    async with asyncio.TaskGroup() as tasks:
        parts = _assemble(tasks, settings, storage, writer, context, readiness, daemon=daemon, audit=audit, lag=lag)
        beside = await _background(settings, storage, context, parts, readiness)
        started = [tasks.create_task(run(), name=name) for name, run in beside.items()]
        try:
            with metrics.gauges_observed(_gauges(settings, parts)):
                yield parts.running
        finally:
            for each in started:
                each.cancel()
            parts.running.recovery.stop()
            await parts.lifecycle.interrupt_all()
            if parts.queue:
                await parts.queue.settled(_SETTLE_TIMEOUT_SECONDS)
            if parts.takeover:
                await parts.takeover.leave()


def _assemble(
    tasks: asyncio.TaskGroup,
    settings: Settings,
    storage: Storage,
    writer: LogWriter,
    context: RunContext,
    readiness: Readiness,
    *,
    daemon: "Daemon | None",
    audit: Audit,
    lag: LoopLag,
) -> _Parts:
    claims, replicas = storage.ownership, storage.replicas
    registry = Registry(storage.log, writer, _secret_box(settings))
    queue, shared_queue = _queue(settings, storage, context.tenant_usage.tenants, readiness)
    ownership = ExecutionOwnership(storage.log, claims, replicas, queue)
    lifecycle = Lifecycle(settings, registry, ownership, queue, context.executor, tasks=tasks)
    requests = DaemonRequests(daemon)
    ready = partial(require_ready, readiness, writer)
    resumer = Resumer(context, registry, lifecycle, ownership, requests, audit, require_ready=ready)
    starter = Starter(
        context,
        registry,
        lifecycle,
        resumer,
        requests,
        queue,
        audit,
        claims=claims,
        replicas=replicas,
        require_ready=ready,
    )
    service = ExecutionService(
        context, registry, lifecycle, starter, ownership, audit, writer=writer, replicas=replicas
    )
    approvals = ApprovalService(context, registry, lifecycle, resumer, ownership, audit, replicas=replicas)
    changes = ChangeService(context, registry, ownership, audit)
    recovery = Recovery(resumer, registry, tasks=tasks)
    reporter = ReplicaReporter(registry, writer, lifecycle, readiness, lag, replicas)
    running = RunningExecutions(service, approvals, changes, recovery, reporter)
    if not replicas or not shared_queue:
        return _Parts(running, registry, lifecycle)
    handover = Handover(registry, ownership, resumer, requests)
    takeover = Takeover(
        handover, approvals, registry, lifecycle, ownership, replicas, readiness=readiness, reporter=reporter
    )
    shared_queue.start_taken, shared_queue.takes_over = handover.start_taken, takeover.is_steady
    context.settle_own_revert, context.wait_for_reverts = changes.settle_own_revert, changes.wait_for_reverts
    return _Parts(running, registry, lifecycle, shared_queue, takeover)


async def _background(
    settings: Settings, storage: Storage, context: RunContext, parts: _Parts, readiness: Readiness
) -> _Background:
    """Goes on with what earlier processes have left, and returns what does so, and cleans up, in the background.

    Raises LogError.
    """
    registry, (_, approvals, changes, *_) = parts.registry, parts.running
    guard = DiskGuard(
        settings.state_dir,
        settings.state_min_free_bytes,
        registry,
        lambda is_full: readiness.set_held_up(DISK, is_held_up=is_full),
    )
    beside: _Background = {
        "prune-log": partial(
            background.prune_log, settings, storage.log, registry, storage.audit, context.tenant_usage.tenants
        ),
        "guard-disk": guard.run,
        "delete-orphaned-state": partial(background.clean_up_agent_state, context, registry),
        "expire-approvals": approvals.expire_forever,
    }
    if settings.approval_webhook_url:
        from runner_service.executions.approval_webhook import ApprovalWebhook  # noqa: PLC0415  # aiohttp

        secret = settings.approval_webhook_secret
        webhook = ApprovalWebhook(
            settings.approval_webhook_url, secret.get_secret_value() if secret else None, approvals.changes
        )
        beside["approval-webhook"] = partial(background.announce_approvals, webhook)
    if parts.takeover and parts.queue:
        beside["takeover"], beside["queue"] = parts.takeover.run, parts.queue.run
        beside["complete-reverts"] = partial(background.complete_reverts_of_others, changes, parts.takeover)
        return beside
    if settings.is_local_mode():
        await changes.complete_reverts()
    else:
        beside["complete-reverts"] = partial(background.complete_reverts, changes)
    await approvals.reserve_waiting()  # with replicas the queue of all remembers them
    return beside


def _gauges(settings: Settings, parts: _Parts) -> dict[metrics.Gauge, metrics.Reading]:
    limits = {"running": settings.max_concurrent_executions, "queued": settings.max_queued_executions}
    return {
        metrics.EXECUTIONS: parts.lifecycle.counts,
        metrics.EXECUTIONS_LIMIT: lambda: limits,
        metrics.WATCHERS: lambda: parts.running.service.watchers,
    }


def _queue(
    settings: Settings, storage: Storage, tenants: Tenants, readiness: Readiness
) -> "tuple[Queue, SharedQueue | None]":
    max_running, max_queued = settings.max_concurrent_executions, settings.max_queued_executions
    if storage.replicas is None:
        return ExecutionQueue(max_running=max_running, max_queued=max_queued, tenants=tenants), None
    shared = SharedQueue(
        storage.replicas.queue,
        tenants,
        max_running=max_running,
        max_queued=max_queued,
        takes_work=lambda: readiness.takes_work,
    )
    return shared, shared


def _secret_box(settings: Settings) -> "SecretBox | None":
    keys = settings.secrets_keys()
    if not keys or not settings.has_redis():
        return None
    from runner_service.executions.secret_box import SecretBox  # noqa: PLC0415  # cryptography

    return SecretBox(keys)
