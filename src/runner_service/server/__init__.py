"""The gRPC server's lifecycle: bind, serve, drain, stop."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import grpc
from grpc_health.v1 import health_pb2_grpc

from runner_service.api.callers.watching import KnownCallers, known_callers
from runner_service.api.health import HEALTH_SERVICE, HealthServicer
from runner_service.api.interceptors import OpenCalls
from runner_service.executions.readiness import Readiness
from runner_service.server.binding import BindError, require_bindable
from runner_service.server.listeners import AddServices, Listeners, bind_listeners
from runner_service.server.metrics_http import serve_metrics
from runner_service.server.ready_file import ServiceFile, announce_ready, service_file
from runner_service.server.reflection import add_reflection
from runner_service.server.signals import StopRequests, stop_signals
from runner_service.server.tls import TlsError, http_tls, page_tls
from runner_service.server.transport import CHANNEL_OPTIONS
from runner_service.settings import Settings

__all__ = [
    "CHANNEL_OPTIONS",
    "BindError",
    "RunningServer",
    "ServiceFile",
    "StopRequests",
    "TlsError",
    "announce_ready",
    "http_tls",
    "page_tls",
    "require_bindable",
    "running_server",
    "serve_metrics",
    "service_file",
    "stop_signals",
]

logger = logging.getLogger(__name__)

Drain = Callable[[float], Awaitable[None]]

_STOP_TIMEOUT_SECONDS = 0.2  # for the last responses; the executions have ended by then
_IDLE_CHECKS_PER_SECOND = 5
_CLEANUP_TIMEOUT_SECONDS = 0.2  # for the handlers of cancelled calls


class RunningServer:
    """A listening server."""

    def __init__(self, listeners: Listeners, readiness: Readiness, calls: OpenCalls) -> None:
        self._servers = listeners.servers
        self._readiness = readiness
        self._calls = calls
        self._stopped = False
        self.listen_addresses = [str(each.address) for each in listeners.bound]
        """Those of LISTEN_ADDRESS, with the real ports."""
        self.address = self.listen_addresses[0]
        """The address to connect to: the first of LISTEN_ADDRESS, with the real port."""
        self.addresses = [str(address) for each in (*listeners.bound, *listeners.sockets) for address in each.addresses]
        """Every address that the server listens on."""
        self.health_address = str(listeners.health.address) if listeners.health else ""
        """HEALTH_ADDRESS with the real port; empty without one."""

    async def serve_until_stopped(
        self, requests: StopRequests, drain: Drain, *, lame_duck: float, drain_timeout: float
    ) -> None:
        """Serves until the first stop request, then drains and stops; a second request cuts the drain short.

        Readiness turns NOT_SERVING first, so that load balancers stop sending calls. After `lame_duck` seconds
        `drain(drain_timeout)` waits for executions to finish, and interrupts the rest at its timeout or when it is
        cancelled. Then the remaining calls end.
        """
        await requests.first()
        logger.info("drain_began timeout=%g", drain_timeout)
        self._readiness.set_draining()

        async def drained() -> None:
            await asyncio.sleep(lame_duck)
            await drain(drain_timeout)

        if not await _run_unless_signalled(requests.second(), drained()):
            logger.warning("drain_cut_short")
        await self.stop()

    async def idle(self, seconds: float, is_busy: Callable[[], bool]) -> None:
        """Waits until, for so many seconds, no call was open, none has begun and `is_busy` was false."""
        checks_left = checks = max(1, round(seconds * _IDLE_CHECKS_PER_SECOND))
        begun = self._calls.begun
        while checks_left:
            await asyncio.sleep(1 / _IDLE_CHECKS_PER_SECOND)
            was_called, begun = self._calls.begun > begun, self._calls.begun
            checks_left = checks if was_called or self._calls.are_open or is_busy() else checks_left - 1
        logger.info("idle seconds=%g", seconds)

    async def stop(self) -> None:
        """Ends all calls, health watches first: an open one would use up the whole timeout. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        self._readiness.set_stopped()
        await asyncio.gather(*(server.stop(_STOP_TIMEOUT_SECONDS) for server in self._servers))
        try:
            async with asyncio.timeout(_CLEANUP_TIMEOUT_SECONDS):
                await self._calls.all_ended()
        except TimeoutError:
            logger.warning("calls_left_open")
        logger.info("server_stopped")


@asynccontextmanager
async def running_server(
    settings: Settings,
    *,
    add_services: AddServices,
    service_names: Sequence[str],
    readiness: Readiness,
    callers: KnownCallers | None = None,
) -> AsyncIterator[RunningServer]:
    """Listens on LISTEN_ADDRESS, with health and reflection beside the services that `add_services` adds.

    `callers` are those that the settings name, if they are known already.

    Answers calls at once, but is not ready before `readiness.set_serving()`. Stops when the context exits.

    Raises:
        BindError: one of the resolved addresses cannot be bound.
        TlsError: the certificate files cannot be used.
        CallersFileError: CALLERS_FILE cannot be used.
    """
    calls = OpenCalls()
    health = HealthServicer(readiness, frozenset(service_names))

    def add_all(server: grpc.aio.Server) -> None:
        add_services(server)
        health_pb2_grpc.add_HealthServicer_to_server(health, server)
        add_reflection(server, (*service_names, HEALTH_SERVICE))

    async with AsyncExitStack() as parts:
        if callers is None:
            callers = await parts.enter_async_context(known_callers(settings))
        listeners = await bind_listeners(
            settings, callers, add_services=add_all, health=health, readiness=readiness, calls=calls
        )
        running = RunningServer(listeners, readiness, calls)
        try:
            for each in listeners.servers:
                await each.start()
            logger.info("listening addresses=%s", ",".join(running.addresses))
            yield running
        finally:
            await running.stop()


async def _run_unless_signalled(signal: Awaitable[None], work: Awaitable[None]) -> bool:
    """Awaits `work`, cancelling it when `signal` completes first. Returns whether `work` finished; raises its error."""
    working, waiting = asyncio.ensure_future(work), asyncio.ensure_future(signal)
    try:
        await asyncio.wait({working, waiting}, return_when=asyncio.FIRST_COMPLETED)
        finished = working.done()
    finally:
        waiting.cancel()
        working.cancel()
        await asyncio.gather(working, waiting, return_exceptions=True)
    if finished:
        await working
    return finished
