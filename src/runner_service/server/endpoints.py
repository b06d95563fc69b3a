"""Everything the service listens with: the gRPC server, the page of metrics, and the page for browsers."""

import asyncio
from contextlib import AsyncExitStack
from typing import NamedTuple

from runner_service.addresses import TcpAddress, parse_address
from runner_service.api.callers.watching import KnownCallers
from runner_service.api.servicer import SERVICE_NAME, AgentRunnerServicer
from runner_service.executions.overview import Overview
from runner_service.executions.readiness import Readiness
from runner_service.executions.replica_reports import ReplicaReporter
from runner_service.server import RunningServer, running_server
from runner_service.server.metrics_http import serve_metrics
from runner_service.server.tls import http_tls, page_tls
from runner_service.settings import Settings
from runner_service.storage.event_log import EventLog
from runner_service.telemetry import scrape_metrics


class Endpoints(NamedTuple):
    """What listens."""

    server: RunningServer
    metrics_address: str
    """Where metrics are served, with the real port; empty when they are not."""
    web_address: str
    """Where the page for browsers is, with the real port; empty when there is none."""

    def ports(self) -> set[int]:
        """Returns the TCP ports of all of them."""
        addresses = [*self.server.addresses, self.server.health_address, self.metrics_address, self.web_address]
        parsed = [parse_address(each) for each in addresses if each]
        return {each.port for each in parsed if isinstance(each, TcpAddress)}


async def enter_endpoints(
    parts: AsyncExitStack,
    settings: Settings,
    servicer: AgentRunnerServicer,
    callers: KnownCallers,
    readiness: Readiness,
    reporter: ReplicaReporter,
    log: EventLog,
) -> Endpoints:
    """Listens until `parts` is left. Raises BindError, TlsError."""
    server = await _enter_server(parts, settings, servicer, callers, readiness)
    metrics_address = await _serve_metrics(parts, settings, callers)
    reporter.address = server.address
    web_address = await _serve_web(parts, settings, servicer, callers, readiness, Overview(reporter, log))
    return Endpoints(server, metrics_address, web_address)


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
