"""The composition root: builds the service from its settings. The only module that chooses an executor by the mode."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runner_service.agent.loader import LazyAgentLoop, loading_agent_loop
from runner_service.api.callers.isolation import require_isolation
from runner_service.api.callers.watching import KnownCallers, known_callers
from runner_service.api.operators import OperatorRpcs
from runner_service.api.page_tokens import PageTokens
from runner_service.api.servicer import AgentRunnerServicer
from runner_service.api.validation.requests import check_execute
from runner_service.approvals.validation import read_policy_file
from runner_service.events.writer import LogWriter, log_writer
from runner_service.executions.approval_service import ApprovalService
from runner_service.executions.assembly import running_executions
from runner_service.executions.audit import running_audit
from runner_service.executions.change_service import ChangeService
from runner_service.executions.confinement_mapping import operator_minimum
from runner_service.executions.readiness import Readiness
from runner_service.executions.run_context import RunContext
from runner_service.executions.service import ExecutionService
from runner_service.executions.tenant_usage import TenantUsage
from runner_service.executors.confinement import Confinement
from runner_service.executors.protocol import Executor, SandboxError
from runner_service.executors.supervisor.watchdog import Quota
from runner_service.server import RunningServer
from runner_service.server.endpoints import enter_endpoints
from runner_service.settings import Settings
from runner_service.storage.backend import Storage
from runner_service.storage.event_log import EventLog, LogError
from runner_service.storage.ownership import UnsuitableStorageError, interrupt_abandoned
from runner_service.storage.sqlite.backend import sqlite_storage
from runner_service.telemetry import monitored_loop
from runner_service.temporal.background import WorkerParts, temporal_in_background
from runner_service.v1.approval_policy_pb2 import ApprovalPolicy

if TYPE_CHECKING:
    from runner_service.models.prices import Prices
    from runner_service.stigmer.daemon import Daemon

logger = logging.getLogger(__name__)

DAEMON_HEALTH = "stigmer-daemon"
"""The health service that shows whether the Stigmer daemon answers; NOT_FOUND when none is configured."""

_AGENT_LOADING_DELAY_SECONDS = 0.1  # the first calls need not share the interpreter; an execution does not wait for it
_SHARED_LOG_WRITE_TIMEOUT_SECONDS = 60.0  # a failover of Redis is a pause


class RunningService(NamedTuple):
    """The service while it serves."""

    server: RunningServer
    executions: ExecutionService
    approvals: ApprovalService
    changes: ChangeService
    agent_loading: LazyAgentLoop
    serving: asyncio.Event
    """Set once the address is announced: from then on there is time for slow imports."""
    metrics_address: str
    """Where metrics are served, with the real port; empty when they are not."""
    web_address: str
    """Where the page for browsers is, with the real port; empty when there is none."""

    @property
    def address(self) -> str:
        """Where to call, in the form of LISTEN_ADDRESS, with the real port."""
        return self.server.address

    def begin_loading(self, *, with_agent_loop: bool = True) -> None:
        """Loads the agent loop and other slow imports in the background, soon after the first calls."""
        if with_agent_loop:
            asyncio.get_running_loop().call_later(_AGENT_LOADING_DELAY_SECONDS, self.agent_loading.start)
        self.serving.set()


@asynccontextmanager
async def running_service(settings: Settings) -> AsyncIterator[RunningService]:
    """Serves until the context ends; what still runs then is left INTERRUPTED. Raises as `serve` does."""
    readiness = Readiness()
    serving = asyncio.Event()
    async with AsyncExitStack() as parts:
        lag = await parts.enter_async_context(monitored_loop())
        callers = await parts.enter_async_context(known_callers(settings))
        require_isolation(settings, callers.directory)
        storage = await _enter_storage(parts, settings)
        log = storage.log
        await parts.enter_async_context(running_audit(callers.audit, storage.audit))
        writer = await _enter_writer(parts, storage, readiness)
        executor = await _enter_executor(parts, settings, serving, readiness)
        await parts.enter_async_context(_proven(executor, operator_minimum(settings), readiness))
        loading = await parts.enter_async_context(loading_agent_loop(storage))
        context = await _run_context(settings, storage, callers, executor, loading)
        daemon = await _enter_daemon(parts, settings, log, readiness)
        executions, approvals, changes, recovery, reporter = await parts.enter_async_context(
            running_executions(
                settings, storage, writer, context, readiness=readiness, daemon=daemon, audit=callers.audit, lag=lag
            )
        )
        callers.end_executions_of = executions.end_tenant
        callers.calls.counts.shared = storage.replicas.open_calls if storage.replicas else None
        operators = OperatorRpcs(callers, storage.audit, PageTokens(log))
        servicer = AgentRunnerServicer(executions, approvals, changes, log, operators=operators)
        endpoints = await enter_endpoints(parts, settings, servicer, callers, readiness, reporter, log)
        server, metrics_address, web_address = endpoints
        context.mcp_addresses.own_ports |= endpoints.ports()
        readiness.set_serving()
        if daemon:
            await daemon.attach(executions.reported)
        if settings.runs_temporal_worker():
            store = await parts.enter_async_context(storage.open_activities())
            worker_parts = WorkerParts(settings, executions, log, store, daemon, readiness, check_execute, loading)
            await parts.enter_async_context(temporal_in_background(worker_parts, serving))
        if settings.resume_on_start and not storage.replicas:
            await recovery.resume_interrupted()
        yield RunningService(server, executions, approvals, changes, loading, serving, metrics_address, web_address)


async def _enter_storage(parts: AsyncExitStack, settings: Settings) -> Storage:
    if not settings.has_redis():
        storage = await parts.enter_async_context(
            sqlite_storage(settings.state_dir, changes_max_bytes=settings.changes_max_bytes)
        )
        await interrupt_abandoned(storage.log, storage.ownership)
        return storage
    from runner_service.storage.redis.address import redis_address  # noqa: PLC0415  # only replicas need it
    from runner_service.storage.redis.backend import redis_storage  # noqa: PLC0415  # as above

    await asyncio.to_thread(settings.state_dir.mkdir, mode=0o700, parents=True, exist_ok=True)
    address = redis_address(settings)
    shared = await parts.enter_async_context(redis_storage(address, changes_max_bytes=settings.changes_max_bytes))
    try:
        await shared.replicas.reach()
    except UnsuitableStorageError:
        raise
    except LogError as error:
        logger.warning("storage_unreachable error=%s", error)  # it may come later
    return shared


async def _enter_writer(parts: AsyncExitStack, storage: Storage, readiness: Readiness) -> LogWriter:
    return await parts.enter_async_context(
        log_writer(
            storage.log,
            on_change=lambda broken: readiness.set_held_up("log", is_held_up=broken),
            write_timeout_seconds=_SHARED_LOG_WRITE_TIMEOUT_SECONDS if storage.replicas else None,
        )
    )


async def _enter_executor(
    parts: AsyncExitStack, settings: Settings, serving: asyncio.Event, readiness: Readiness
) -> Executor:
    match settings.mode:
        case "local":
            from runner_service.executors.local.confinement.cells import CacheBounds  # noqa: PLC0415  # as below
            from runner_service.executors.local.executor import local_executor  # noqa: PLC0415  # only this mode needs it

            return await parts.enter_async_context(
                local_executor(
                    root=sandbox_root(settings),
                    state_dir=settings.state_dir,
                    scope=settings.sandbox_scope,
                    terminate_grace=settings.kill_grace,
                    quota=_quota(settings),
                    secrets=settings.secret_files(),
                    on_supervisor_change=lambda is_there: readiness.set_held_up("supervisor", is_held_up=not is_there),
                    cache_bounds=CacheBounds(settings.sandbox_cache_max_age, settings.sandbox_cache_max_bytes),
                )
            )
        case "cloud":
            from runner_service.executors.daytona.factory import configured  # noqa: PLC0415  # as above

            return await parts.enter_async_context(configured(settings, serving))


def sandbox_root(settings: Settings) -> Path:
    """Returns the directory that tools work in, in local mode."""
    return Path(settings.sandbox_root_dir).resolve()


def _quota(settings: Settings) -> Quota:
    return Quota(
        memory=settings.sandbox_max_memory_bytes,
        processes=settings.sandbox_max_processes,
        cpu_time=settings.sandbox_max_cpu_seconds,
    )


@asynccontextmanager
async def _proven(executor: Executor, minimum: Confinement, readiness: Readiness) -> AsyncIterator[None]:
    """Proves the minimum confinement in the background; the service is not ready until it is in force."""

    async def prove() -> None:
        try:
            in_force = await executor.confinement_for(minimum)
        except SandboxError as error:
            logger.error("confinement_unavailable reason=%s", error)  # noqa: TRY400  # its text says all
            return
        logger.info("confinement_proven %s", in_force)
        readiness.set_held_up("confinement", is_held_up=False)

    if not minimum:
        yield
        return
    readiness.set_held_up("confinement", is_held_up=True)
    async with asyncio.TaskGroup() as tasks:
        proving = tasks.create_task(prove(), name="confinement-proving")
        try:
            yield
        finally:
            proving.cancel()


async def _run_context(
    settings: Settings, storage: Storage, callers: KnownCallers, executor: Executor, loading: LazyAgentLoop
) -> RunContext:
    return RunContext(
        settings,
        storage.log,
        mode=settings.mode,
        executor=executor,
        agent_loop=loading,
        contents=storage.contents,
        tenant_usage=TenantUsage(callers.tenants, storage.usage),
        approval_policy=await _approval_policy(settings),
        prices=await _prices(settings),
    )


async def _approval_policy(settings: Settings) -> ApprovalPolicy | None:
    path = settings.approval_policy_file
    return await asyncio.to_thread(read_policy_file, path) if path else None


async def _prices(settings: Settings) -> "Prices | None":
    if settings.prices_file is None:
        return None
    from runner_service.models.prices import read_prices_file  # noqa: PLC0415  # pydantic, for this only

    return await asyncio.to_thread(read_prices_file, settings.prices_file)


async def _enter_daemon(
    parts: AsyncExitStack, settings: Settings, log: EventLog, readiness: Readiness
) -> "Daemon | None":
    if settings.stigmer_backend_endpoint is None:
        return None
    from runner_service.stigmer.daemon import stigmer_daemon  # noqa: PLC0415  # only who has a daemon needs it

    readiness.set_neighbour(DAEMON_HEALTH, is_there=False)
    return await parts.enter_async_context(
        stigmer_daemon(
            settings,
            log,
            check=check_execute,
            on_connection_change=lambda is_there: readiness.set_neighbour(DAEMON_HEALTH, is_there=is_there),
        )
    )
