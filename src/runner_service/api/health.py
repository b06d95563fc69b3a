"""The standard gRPC health service, answering from `Readiness`."""

from typing import Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from runner_service.executions.readiness import Readiness, Stage

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

HEALTH_SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

LIVENESS = "liveness"
"""The name under which the process is SERVING as long as it should not be killed."""

MAX_WATCHES = 1000
"""How many may watch health at once, for it takes no token."""

_LONGEST_REQUEST = 512  # bytes; a watch holds its own as long as it lasts

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
