"""The composition root: builds the service from its settings. The only module that chooses an executor by the mode."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from runner_service.addresses import TcpAddress, parse_address
from runner_service.agent.loader import LazyAgentLoop, loading_agent_loop
from runner_service.api.callers.isolation import require_isolation
from runner_service.api.callers.watching import KnownCallers, known_callers
from runner_service.api.operators import OperatorRpcs
from runner_service.api.page_tokens import PageTokens
from runner_service.api.servicer import SERVICE_NAME, AgentRunnerServicer
from runner_service.api.validation.requests import check_execute
from runner_service.approvals.validation import read_policy_file
from runner_service.events.writer import LogWriter, log_writer
from runner_service.executions.approval_service import ApprovalService
from runner_service.executions.audit import running_audit
from runner_service.executions.background import running_executions
from runner_service.executions.change_service import ChangeService
from runner_service.executions.confinement_mapping import operator_minimum
from runner_service.executions.overview import Overview
from runner_service.executions.readiness import Readiness
from runner_service.executions.runner import Runner
from runner_service.executions.service import ExecutionService
from runner_service.executions.tenant_usage import TenantUsage
from runner_service.executors.confinement import Confinement
from runner_service.executors.protocol import Executor, SandboxError
from runner_service.executors.supervisor.watchdog import Quota
from runner_service.models.prices import Prices, read_prices_file
from runner_service.server import (
    RunningServer,
    ServiceFile,
    StopRequests,
    announce_ready,
    http_tls,
    page_tls,
    running_server,
    serve_metrics,
    service_file,
    stop_signals,
)
from runner_service.settings import Settings
from runner_service.storage.backend import Storage
from runner_service.storage.event_log import EventLog, LogError
from runner_service.storage.ownership import UnsuitableStorageError, interrupt_abandoned
from runner_service.storage.sqlite.backend import sqlite_storage
from runner_service.telemetry import monitored_loop, scrape_metrics
from runner_service.temporal.background import WorkerParts, temporal_in_background
from runner_service.v1.approval_policy_pb2 import ApprovalPolicy

if TYPE_CHECKING:
    from runner_service.stigmer.daemon import Daemon

logger = logging.getLogger(__name__)

DAEMON_HEALTH = "stigmer-daemon"
"""The health service that shows whether the Stigmer daemon answers; NOT_FOUND when none is configured."""

_CLOUD_LAME_DUCK_SECONDS = 2.0  # for load balancers to see NOT_SERVING; a daemon on the same machine needs none
_SHARED_LOG_WRITE_TIMEOUT_SECONDS = 60.0  # a failover of Redis is a pause


class ServeOptions(NamedTuple):
    """How to serve, apart from the settings."""

    ready_fd: int | None = None
    """Where to write the address as a line of JSON, beside SERVICE_FILE."""
    ready_file: Path | None = None
    """The same, as a file."""
    exit_when_idle: float | None = None
    """Stop when nothing has run and nobody has watched for so many seconds."""
    load_agent_at_start: bool = True
    """Load the agent loop at once, rather than with the first execution."""


async def serve(settings: Settings, options: ServeOptions = ServeOptions()) -> float:  # noqa: B008  # immutable
    """Serves until a signal stops it, or it is idle. Returns the seconds that are left of DRAIN_TIMEOUT.

    Raises:
        BindError, TlsError, LogError, SandboxError: it cannot start; the text says what to do.
    """
    with stop_signals() as requests:
        async with service_file(settings.state_dir) as file, running_service(settings) as service:
            await file.write(service.address, _about(settings, service))
            await _serve_until_stopped(settings, options, service, file, requests)
        return max(0.0, settings.drain_timeout - requests.seconds_since_first())


async def _serve_until_stopped(
    settings: Settings, options: ServeOptions, service: "RunningService", file: ServiceFile, requests: StopRequests
) -> None:
    async def drain(timeout_seconds: float) -> None:
        await file.mark_stopping()
        await service.executions.drain(timeout_seconds)

    async with (
        announce_ready(
            service.address, fd=options.ready_fd, file=options.ready_file, about=_other_addresses(settings, service)
        ),
        asyncio.TaskGroup() as tasks,
    ):
        service.begin_loading(with_agent_loop=options.load_agent_at_start)
        idle = tasks.create_task(_stop_when_idle(service, options.exit_when_idle, requests))
        await service.server.serve_until_stopped(
            requests,
            drain,
            lame_duck=0.0 if settings.is_local_mode() else _CLOUD_LAME_DUCK_SECONDS,
            drain_timeout=settings.drain_timeout,
        )
        idle.cancel()


class RunningService(NamedTuple):
    """The service while it serves."""

    server: RunningServer
    executions: ExecutionService
    approvals: ApprovalService
    changes: ChangeService
    agent_loading: LazyAgentLoop
    serving: asyncio.Event
    """Set once the address is announced: from then on there is time for slow imports."""
    metrics_address: str = ""
    """Where metrics are served, with the real port; empty when they are not."""
    web_address: str = ""
    """Where the page for browsers is, with the real port; empty when there is none."""

    @property
    def address(self) -> str:
        """Where to call, in the form of LISTEN_ADDRESS, with the real port."""
        return self.server.address

    def begin_loading(self, *, with_agent_loop: bool = True) -> None:
        """Loads the agent loop and other slow imports in the background."""
        if with_agent_loop:
            self.agent_loading.start()
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
        runner = await _runner(settings, storage, callers, executor, loading)
        daemon = await _enter_daemon(parts, settings, log, readiness)
        executions, approvals, changes, recovery, reporter = await parts.enter_async_context(
            running_executions(
                settings, storage, writer, runner, readiness=readiness, daemon=daemon, audit=callers.audit, lag=lag
            )
        )
        callers.end_executions_of = executions.end_tenant
        callers.calls.counts.shared = storage.replicas.open_calls if storage.replicas else None
        operators = OperatorRpcs(callers, storage.audit, PageTokens(log))
        servicer = AgentRunnerServicer(executions, approvals, changes, log, operators=operators)
        server = await _enter_server(parts, settings, servicer, callers, readiness)
        metrics_address = await _serve_metrics(parts, settings, callers)
        reporter.address = server.address
        web_address = await _serve_web(parts, settings, servicer, callers, readiness, Overview(reporter, log))
        others = [server.health_address, metrics_address, web_address]
        runner.mcp_addresses.own_ports |= _ports([*server.addresses, *others])
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


async def _enter_writer(parts: AsyncExitStack, storage: Storage, readiness: Readiness) -> LogWriter:
    return await parts.enter_async_context(
        log_writer(
            storage.log,
            on_change=lambda broken: readiness.set_held_up("log", is_held_up=broken),
            write_timeout_seconds=_SHARED_LOG_WRITE_TIMEOUT_SECONDS if storage.replicas else None,
        )
    )


async def _runner(
    settings: Settings, storage: Storage, callers: KnownCallers, executor: Executor, loading: LazyAgentLoop
) -> Runner:
    return Runner(
        settings,
        storage.log,
        mode=settings.mode,
        executor=executor,
        agent_loop=loading,
        contents=storage.contents,
        approval_policy=await _approval_policy(settings),
        prices=await _prices(settings),
        tenant_usage=TenantUsage(callers.tenants, storage.usage),
    )


async def _enter_server(
    parts: AsyncExitStack,
    settings: Settings,
    servicer: AgentRunnerServicer,
    callers: KnownCallers,
    readiness: Readiness,
) -> RunningServer:
    handler = servicer.handler()
    return await parts.enter_async_context(
        running_server(
            settings,
            add_services=lambda server: server.add_generic_rpc_handlers((handler,)),
            service_names=[SERVICE_NAME],
            readiness=readiness,
            callers=callers,
        )
    )


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


async def _enter_executor(
    parts: AsyncExitStack, settings: Settings, serving: asyncio.Event, readiness: Readiness
) -> Executor:
    match settings.mode:
        case "local":
            from runner_service.executors.local.confinement.cells import CacheBounds  # noqa: PLC0415  # as below
            from runner_service.executors.local.executor import local_executor  # noqa: PLC0415  # only this mode needs it

            return await parts.enter_async_context(
                local_executor(
                    root=_root(settings),
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


async def _approval_policy(settings: Settings) -> ApprovalPolicy | None:
    path = settings.approval_policy_file
    return await asyncio.to_thread(read_policy_file, path) if path else None


async def _prices(settings: Settings) -> Prices | None:
    path = settings.prices_file
    return await asyncio.to_thread(read_prices_file, path) if path else None


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


async def _serve_metrics(parts: AsyncExitStack, settings: Settings, callers: KnownCallers) -> str:
    wanted = parse_address(settings.metrics_address) if settings.metrics_address else None
    if not isinstance(wanted, TcpAddress):
        return ""
    tls = await asyncio.to_thread(http_tls, settings)
    return str(await parts.enter_async_context(serve_metrics(wanted, scrape_metrics, callers, tls)))


async def _serve_web(
    parts: AsyncExitStack,
    settings: Settings,
    servicer: AgentRunnerServicer,
    callers: KnownCallers,
    readiness: Readiness,
    overview: Overview,
) -> str:
    wanted = parse_address(settings.web_address) if settings.web_address else None
    if not isinstance(wanted, TcpAddress):
        return ""
    from runner_service.web.server import WebOptions, serve_web  # noqa: PLC0415  # only who wants the page needs it

    tls = await asyncio.to_thread(page_tls, settings)
    options = WebOptions(
        names=tuple(name.strip() for name in settings.web_hosts.split(",") if name.strip()),
        cookie_key=overview.log.fingerprint_key,
        token=settings.web_token.get_secret_value().encode() if settings.web_token else None,
        tls=tls.context if tls else None,
        reload_tls=tls.reload_if_changed if tls else lambda: None,
    )
    return str(await parts.enter_async_context(serve_web(wanted, servicer, callers, readiness, overview, options)))


def _ports(addresses: Iterable[str]) -> set[int]:
    parsed = [parse_address(each) for each in addresses if each]
    return {each.port for each in parsed if isinstance(each, TcpAddress)}


def _root(settings: Settings) -> Path:
    return Path(settings.sandbox_root_dir).resolve()


def _quota(settings: Settings) -> Quota:
    return Quota(
        memory=settings.sandbox_max_memory_bytes,
        processes=settings.sandbox_max_processes,
        cpu_time=settings.sandbox_max_cpu_seconds,
    )


def _about(settings: Settings, service: RunningService) -> dict[str, str]:
    return {"sandbox_root": str(_root(settings)), "mode": settings.mode} | _other_addresses(settings, service)


def _other_addresses(settings: Settings, service: RunningService) -> dict[str, str]:
    scheme = ("https" if settings.tls_cert_file else "http") if service.web_address else ""
    others = {"metrics_address": service.metrics_address, "web_address": service.web_address, "web_scheme": scheme}
    return {name: address for name, address in others.items() if address}


async def _stop_when_idle(service: RunningService, idle_seconds: float | None, requests: StopRequests) -> None:
    if idle_seconds is not None:
        await service.server.idle(idle_seconds, lambda: service.executions.is_busy)
        requests.request()
