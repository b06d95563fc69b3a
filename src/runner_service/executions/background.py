"""Background work: resumes interrupted executions at start, prunes the log, cleans up."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from runner_service.errors import CallError, ExecutionEnd, UnavailableError
from runner_service.events.writer import LogWriter
from runner_service.executions import stored_request
from runner_service.executions.approval_service import ApprovalService
from runner_service.executions.audit import Audit
from runner_service.executions.change_service import ChangeService
from runner_service.executions.disk_guard import DiskGuard
from runner_service.executions.lifecycle import Lifecycle
from runner_service.executions.queue import ExecutionQueue
from runner_service.executions.readiness import DISK, Readiness
from runner_service.executions.registry import Registry
from runner_service.executions.replica_reports import ReplicaReporter
from runner_service.executions.runner import Runner
from runner_service.executions.service import ExecutionService
from runner_service.executions.shared_queue import SharedQueue
from runner_service.executions.takeover import Takeover
from runner_service.executions.tenant_limits import Tenants
from runner_service.executions.tenant_retention import prune_tenant
from runner_service.identity import OwnerKey
from runner_service.settings import Settings
from runner_service.storage.audit import AuditStore
from runner_service.storage.backend import Storage
from runner_service.storage.event_log import EventLog, LogError
from runner_service.telemetry import metrics
from runner_service.telemetry.loop_lag import LoopLag

if TYPE_CHECKING:
    from runner_service.executions.approval_webhook import ApprovalWebhook
    from runner_service.executions.secret_box import SecretBox
    from runner_service.stigmer.daemon import Daemon
    from runner_service.storage.queue import Queue

logger = logging.getLogger(__name__)

_CLEANUP_INTERVAL_SECONDS = 60.0
_SETTLE_TIMEOUT_SECONDS = 1.0
_REVERTS_INTERVAL_SECONDS = 3.0

_Background = dict[str, Callable[[], Coroutine[Any, Any, None]]]
"""What runs beside the executions until it is cancelled, by the names of its tasks."""


class RunningExecutions(NamedTuple):
    """The executions of this process."""

    service: ExecutionService
    approvals: ApprovalService
    changes: ChangeService
    recovery: "Recovery"
    reporter: ReplicaReporter


@asynccontextmanager
async def running_executions(
    settings: Settings,
    storage: Storage,
    writer: LogWriter,
    runner: Runner,
    *,
    readiness: Readiness,
    daemon: "Daemon | None" = None,
    audit: Audit | None = None,
    lag: LoopLag | None = None,
) -> AsyncIterator["RunningExecutions"]:
    """Holds the executions of this process; whatever still runs when the context ends is left INTERRUPTED."""
    async with asyncio.TaskGroup() as tasks:
        registry = Registry(storage.log, writer, _secret_box(settings))
        queue, shared_queue = _queue(settings, storage, runner, readiness)
        lifecycle = Lifecycle(
            settings, registry, storage.log, storage.ownership, storage.replicas, queue, runner.executor, tasks=tasks
        )
        service = ExecutionService(
            storage.log,
            writer,
            runner,
            registry=registry,
            lifecycle=lifecycle,
            ownership=storage.ownership,
            replicas=storage.replicas,
            readiness=readiness,
            daemon=daemon,
            audit=audit or Audit(),
        )
        approvals = ApprovalService(
            storage.log, runner, service, registry=registry, lifecycle=lifecycle, replicas=storage.replicas
        )
        changes = ChangeService(storage.log, runner, registry, lifecycle, service.audit)
        recovery = Recovery(service, registry, tasks=tasks)
        background = _background(settings, storage, runner, registry, approvals, readiness)
        reporter = ReplicaReporter(registry, writer, lifecycle, readiness, lag or LoopLag(), storage.replicas)
        takeover = None
        if storage.replicas and shared_queue:
            takeover = Takeover(
                service, approvals, registry, lifecycle, storage.replicas, readiness=readiness, reporter=reporter
            )
            runner.settle_own_revert, runner.wait_for_reverts = changes.settle_own_revert, changes.wait_for_reverts
            background |= _with_replicas(takeover, shared_queue, service, changes)
        else:
            background |= await _alone(settings, approvals, changes)
        running = [tasks.create_task(run(), name=name) for name, run in background.items()]
        try:
            with metrics.gauges_observed({**lifecycle.gauges(), metrics.WATCHERS: lambda: service.watchers}):
                yield RunningExecutions(service, approvals, changes, recovery, reporter)
        finally:
            for each in running:
                each.cancel()
            recovery.stop()
            await lifecycle.interrupt_all()
            if shared_queue:
                await shared_queue.settled(_SETTLE_TIMEOUT_SECONDS)
            if takeover:
                await takeover.leave()


def _queue(
    settings: Settings, storage: Storage, runner: Runner, readiness: Readiness
) -> "tuple[Queue, SharedQueue | None]":
    max_running, max_queued = settings.max_concurrent_executions, settings.max_queued_executions
    tenants = _tenants(runner) or Tenants()
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


def _tenants(runner: Runner) -> Tenants | None:
    return runner.tenant_usage.tenants if runner.tenant_usage else None


def _background(
    settings: Settings,
    storage: Storage,
    runner: Runner,
    registry: Registry,
    approvals: ApprovalService,
    readiness: Readiness,
) -> _Background:
    """Returns what runs beside the executions in any case."""
    guard = DiskGuard(
        settings.state_dir,
        settings.state_min_free_bytes,
        registry,
        lambda is_full: readiness.set_held_up(DISK, is_held_up=is_full),
    )
    background: _Background = {
        "prune-log": partial(_prune_log, settings, storage.log, registry, storage.audit, _tenants(runner)),
        "guard-disk": guard.run,
        "delete-orphaned-state": partial(_delete_orphaned_state, runner, registry),
        "expire-approvals": approvals.expire_forever,
    }
    if settings.approval_webhook_url:
        from runner_service.executions.approval_webhook import ApprovalWebhook  # noqa: PLC0415  # aiohttp

        secret = settings.approval_webhook_secret
        webhook = ApprovalWebhook(
            settings.approval_webhook_url, secret.get_secret_value() if secret else None, approvals.changes
        )
        background["approval-webhook"] = partial(_announce_approvals, webhook)
    return background


def _with_replicas(
    takeover: Takeover, queue: SharedQueue, service: ExecutionService, changes: ChangeService
) -> _Background:
    """Connects the queue with what starts and takes over. Returns what runs only where there are other replicas."""
    queue.start_taken = service.start_taken
    queue.takes_over = takeover.is_steady
    return {
        "takeover": takeover.run,
        "complete-reverts": partial(_complete_reverts_of_others, changes, takeover),
        "queue": queue.run,
    }


async def _alone(settings: Settings, approvals: ApprovalService, changes: ChangeService) -> _Background:
    """Goes on with what an earlier process has left; with replicas another may be about to. Raises LogError."""
    background: _Background = {}
    if settings.is_local_mode():
        await changes.complete_reverts()
    else:
        background["complete-reverts"] = partial(_complete_reverts, changes)
    await approvals.reserve_waiting()
    return background


class Recovery:
    """Resumes at the start what an earlier process left INTERRUPTED."""

    def __init__(self, service: ExecutionService, registry: Registry, *, tasks: asyncio.TaskGroup) -> None:
        self._service = service
        self._registry = registry
        self._task_group = tasks
        self._waiting_for_daemon: asyncio.Task[None] | None = None

    async def resume_interrupted(self) -> None:
        """Resumes every interrupted execution that had no secrets, the oldest first; none depends on callers then.

        Those whose secrets the Stigmer daemon has follow when it answers.
        """
        by_id: list[OwnerKey] = []
        for execution in reversed(await self._registry.interrupted()):
            if stored_request.is_reference(execution.request):
                by_id.append(execution.id)
            elif error := await self._resume(execution.id):
                logger.warning("resume_postponed execution=%s reason=%s", execution.id, error)
        if by_id:
            self._waiting_for_daemon = self._task_group.create_task(self._resume_all_by_id(by_id), name="resume-by-id")

    def stop(self) -> None:
        """Stops waiting for the daemon."""
        if self._waiting_for_daemon:
            self._waiting_for_daemon.cancel()

    async def _resume_all_by_id(self, execution_ids: Sequence[OwnerKey]) -> None:
        for execution_id in execution_ids:
            while error := await self._resume(execution_id):  # noqa: ASYNC110  # nothing tells when it is possible
                await asyncio.sleep(error.retry_delay)

    async def _resume(self, execution_id: OwnerKey) -> UnavailableError | None:
        """Resumes an execution if possible; returns why it is not now, when it may be later."""
        try:
            await self._service.resume(execution_id)
        except UnavailableError as error:
            return error
        except CallError as error:
            logger.warning("resume_refused execution=%s reason=%s", execution_id, error)
        return None


async def _complete_reverts(changes: ChangeService) -> None:
    """Completes reverts while the service runs, since a sandbox may take its time."""
    try:
        await changes.complete_reverts()
    except LogError as error:  # the next revert of the execution tries again
        logger.warning("reverts_not_completed error=%s", error)


async def _complete_reverts_of_others(changes: ChangeService, takeover: Takeover) -> None:
    """Completes the reverts of replicas that have died, until the service stops."""
    while True:
        if takeover.may_claim:
            await _complete_reverts(changes)
        await asyncio.sleep(_REVERTS_INTERVAL_SECONDS)


async def _announce_approvals(webhook: "ApprovalWebhook") -> None:
    """Announces requests for approval, until the service stops."""
    while True:
        try:
            await webhook.run()
        except LogError as error:
            logger.warning("approval_webhook_interrupted error=%s", error)
            await asyncio.sleep(_CLEANUP_INTERVAL_SECONDS)
        except UnavailableError:
            return


async def _prune_log(
    settings: Settings, log: EventLog, registry: Registry, audit: AuditStore, tenants: Tenants | None
) -> None:
    """Deletes old executions from the log, now and every minute."""
    while True:
        try:
            pruned = await log.prune(max_age=settings.log_max_age, max_bytes=settings.log_max_bytes)
            logger.debug("log_pruned executions=%d", pruned)
            await audit.delete_before(time.time() - settings.audit_keep)
            for tenant, stored_bytes in tenants.with_stored_bytes() if tenants else ():
                await prune_tenant(log, tenant, stored_bytes)
        except LogError as error:
            logger.warning("log_prune_failed error=%s", error)
        for execution in registry.in_memory():
            registry.drop_if_idle(execution)
        await asyncio.sleep(_CLEANUP_INTERVAL_SECONDS)


async def _delete_orphaned_state(runner: Runner, registry: Registry) -> None:
    """Deletes what is kept of executions that ended while no process could delete it, now and every minute."""
    while True:
        try:
            await runner.delete_orphaned_state(registry.is_active)
            await runner.delete_orphaned_sessions(lambda: {each.record.session_id for each in registry.in_memory()})
        except (LogError, ExecutionEnd) as error:
            logger.warning("delete_orphaned_state_failed error=%s", error)
        await asyncio.sleep(_CLEANUP_INTERVAL_SECONDS)


def _secret_box(settings: Settings) -> "SecretBox | None":
    keys = settings.secrets_keys()
    if not keys or not settings.has_redis():
        return None
    from runner_service.executions.secret_box import SecretBox  # noqa: PLC0415  # cryptography

    return SecretBox(keys)
