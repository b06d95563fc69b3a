"""The life of the server: bind, serve, drain, stop."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from runner_service.addresses import parse_address
from runner_service.api.auth import authentication
from runner_service.api.health import HEALTH_SERVICE, HealthServicer
from runner_service.api.interceptors import OpenCalls, interceptors
from runner_service.executions.readiness import Readiness
from runner_service.server.binding import BindError, Bound, bind, check_bindable
from runner_service.server.metrics_http import metrics_page
from runner_service.server.ready_file import announced
from runner_service.server.signals import StopRequests, stop_signals
from runner_service.server.tls import TlsError, server_credentials
from runner_service.server.transport import CHANNEL_OPTIONS
from runner_service.settings import Settings

__all__ = [
    "CHANNEL_OPTIONS",
    "BindError",
    "RunningServer",
    "StopRequests",
    "TlsError",
    "announced",
    "check_bindable",
    "metrics_page",
    "running_server",
    "stop_signals",
]

logger = logging.getLogger(__name__)

AddServices = Callable[[grpc.aio.Server], None]
Drain = Callable[[float], Awaitable[None]]

_STOP_GRACE = 0.5  # seconds for the last answers to leave; what had to be ended has ended by then
_CLEAN_UP_GRACE = 1.0  # seconds for the handlers of calls that were cut off


class RunningServer:
    """A server that listens, until its context ends."""

    def __init__(self, server: grpc.aio.Server, readiness: Readiness, calls: OpenCalls, bound: Bound) -> None:
        self._server = server
        self._readiness = readiness
        self._calls = calls
        self._stopped = False
        self.address = str(bound.address)
        """Where to call, in the form of LISTEN_ADDRESS, with the real port."""
        self.addresses = [str(address) for address in bound.addresses]
        """Every address that is listened on."""

    async def stop_when_asked(
        self, requests: StopRequests, drain: Drain, *, lame_duck: float, drain_timeout: float
    ) -> None:
        """Serves until the first request to stop, then stops in stages; the second request cuts the wait short.

        Readiness goes first, so that load balancers look elsewhere; `lame_duck` seconds later `drain(drain_timeout)`
        lets executions finish, and lets go of the others when its time is over or it is cancelled; then calls end.
        """
        await requests.asked()
        logger.info("drain_began timeout=%g", drain_timeout)
        self._readiness.set_draining()

        async def drained() -> None:
            await asyncio.sleep(lame_duck)
            await drain(drain_timeout)

        if not await _finished_before(requests.insisted(), drained()):
            logger.warning("drain_cut_short")
        await self.stop()

    async def stop(self) -> None:
        """Ends all calls, those that watch health first: one left open would take the whole grace. Idempotent."""
        if self._stopped:
            return
        self._stopped = True
        self._readiness.set_stopped()
        await self._server.stop(_STOP_GRACE)
        try:
            async with asyncio.timeout(_CLEAN_UP_GRACE):
                await self._calls.all_ended()
        except TimeoutError:
            logger.warning("calls_left_open")
        logger.info("server_stopped")


@asynccontextmanager
async def running_server(
    settings: Settings, *, add_services: AddServices, service_names: Sequence[str], readiness: Readiness
) -> AsyncIterator[RunningServer]:
    """Listens where the settings say, with health and reflection beside the services that `add_services` adds.

    It answers at once, but is not ready before `readiness.set_serving()`. Leaving stops it, if nobody has yet.

    Raises:
        BindError: the address cannot be listened on, all of it.
        TlsError: the certificate files cannot be used.
    """
    calls = OpenCalls()
    server = grpc.aio.server(
        interceptors=interceptors(await asyncio.to_thread(authentication, settings), readiness, calls),
        options=CHANNEL_OPTIONS,
    )
    add_services(server)
    health_pb2_grpc.add_HealthServicer_to_server(HealthServicer(readiness, frozenset(service_names)), server)
    reflection.enable_server_reflection((*service_names, HEALTH_SERVICE, reflection.SERVICE_NAME), server)
    bound = await bind(server, parse_address(settings.listen_address), server_credentials(settings))
    running = RunningServer(server, readiness, calls, bound)
    try:
        await server.start()
        logger.info("listening addresses=%s", ",".join(running.addresses))
        yield running
    finally:
        await running.stop()


async def _finished_before(signal: Awaitable[None], work: Awaitable[None]) -> bool:
    """Does `work`, which is cancelled as soon as `signal` comes. Tells whether it finished; raises what it raises."""
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
