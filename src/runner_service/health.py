"""Whether the service can be called: `Readiness` says so to our own code, to health checks and to whoever watches."""

import asyncio
from enum import Enum
from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from runner_service.errors import UnavailableError

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

HEALTH_SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

LIVENESS = "liveness"
"""The name under which the process is SERVING as long as it should not be killed."""

MAX_WATCHES = 1000
"""How many may watch health at once, for it takes no token."""

_LONGEST_REQUEST = 512  # bytes; a watch holds its own as long as it lasts
_RETRY_ELSEWHERE = 1.0  # by then a load balancer has seen NOT_SERVING, or a successor listens


class Stage(Enum):
    """Where the life of the service stands. It only moves on, never back."""

    STARTING = 1
    SERVING = 2
    DRAINING = 3
    STOPPED = 4


class Readiness:
    """The stage that the service is in. Every method is for the event loop's thread and returns at once."""

    def __init__(self) -> None:
        self._stage = Stage.STARTING
        self._changed = asyncio.Event()
        self._neighbours: dict[str, bool] = {}
        self._is_held_up = False

    @property
    def stage(self) -> Stage:
        """The stage as it is now."""
        return self._stage

    def set_serving(self) -> None:
        """Begins to take calls."""
        self._advance(Stage.SERVING)

    def set_draining(self) -> None:
        """Begins to refuse what would start work. Attaching, watching and cancelling go on."""
        self._advance(Stage.DRAINING)

    def set_stopped(self) -> None:
        """Refuses everything but health checks, and ends those that watch health."""
        self._advance(Stage.STOPPED)

    @property
    def takes_work(self) -> bool:
        """Whether something new can start: it is what readiness shows."""
        return self._stage is Stage.SERVING and not self._is_held_up

    def set_held_up(self, *, is_held_up: bool) -> None:
        """Shows whether something is missing that the service cannot work without, such as room for its log."""
        self._is_held_up = is_held_up
        self._announce()

    def require_serving(self) -> None:
        """Lets something new start.

        Raises:
            UnavailableError: the service has not started yet, or is about to stop.
        """
        if self._stage is not Stage.SERVING:
            raise self.unavailable()

    def require_not_stopped(self) -> None:
        """Lets a call in.

        Raises:
            UnavailableError: the service has stopped.
        """
        if self._stage is Stage.STOPPED:
            raise self.unavailable()

    def unavailable(self) -> UnavailableError:
        """Returns the refusal that fits the stage."""
        why = "is starting" if self._stage is Stage.STARTING else "is stopping"
        return UnavailableError(f"the service {why}; call again", retry_delay=_RETRY_ELSEWHERE)

    def set_neighbour(self, name: str, *, is_there: bool) -> None:
        """Shows, as a health service of that name, whether something is there that the service can do without."""
        self._neighbours[name] = is_there
        self._announce()

    def neighbour(self, name: str) -> bool | None:
        """Tells whether something is there; None when there is nothing of that name."""
        return self._neighbours.get(name)

    async def changed(self) -> None:
        """Waits for the next change of anything that health shows."""
        await self._changed.wait()

    def _advance(self, stage: Stage) -> None:
        if stage.value <= self._stage.value:
            return
        self._stage = stage
        self._announce()

    def _announce(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


WatchContext = grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]


class HealthServicer(health_pb2_grpc.HealthServicer):
    """The standard health service, answering from `readiness` for "", `service_names` and `LIVENESS`.

    The one that comes with grpc holds a lock while it writes to a watcher, so that one who reads slowly keeps the
    status from being changed, and it never ends a watch, so that a stop takes its whole grace.
    """

    def __init__(self, readiness: Readiness, service_names: frozenset[str]) -> None:
        self._readiness: Final = readiness
        self._names: Final = service_names | {""}
        self._watches = 0

    async def Check(  # noqa: N802  # the name in the proto
        self, request: health_pb2.HealthCheckRequest, context: WatchContext
    ) -> health_pb2.HealthCheckResponse:
        """Tells the status of a service. NOT_FOUND: there is no such service."""
        status = self._status(request.service)
        if status == SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health_pb2.HealthCheckResponse(status=status)

    async def Watch(  # noqa: N802  # the name in the proto
        self, request: health_pb2.HealthCheckRequest, context: WatchContext
    ) -> None:
        """Tells the status of a service, now and whenever it changes, until the service has stopped.

        RESOURCE_EXHAUSTED: too many watch already. INVALID_ARGUMENT: the request is far too long for a name.
        """
        if self._watches >= MAX_WATCHES:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many watch; use Check")
        if request.ByteSize() > _LONGEST_REQUEST:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"longer than {_LONGEST_REQUEST} bytes")
        self._watches += 1
        try:
            await self._tell_changes(request.service, context)
        finally:
            self._watches -= 1

    async def _tell_changes(self, name: str, context: WatchContext) -> None:
        told: int | None = None
        while True:
            stage, status = self._readiness.stage, self._status(name)
            if status != told:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                told = status
            if stage is Stage.STOPPED:
                return
            if stage is self._readiness.stage and status == self._status(name):
                await self._readiness.changed()

    def _status(self, name: str) -> int:
        if name == LIVENESS:
            return SERVING
        if (is_there := self._readiness.neighbour(name)) is not None:
            return SERVING if is_there else NOT_SERVING
        if name not in self._names:
            return SERVICE_UNKNOWN
        return SERVING if self._readiness.takes_work else NOT_SERVING
