"""The standard gRPC health service, based on `Readiness`."""

from typing import Any, Final

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from runner_service.executions.readiness import Readiness, Stage

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE_UNKNOWN = health_pb2.HealthCheckResponse.SERVICE_UNKNOWN

HEALTH_SERVICE = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name

LIVENESS = "liveness"
"""The health service name for liveness: SERVING while the process need not be restarted."""

MAX_WATCHES = 1000
"""Limit of concurrent `Watch` calls, since they need no token."""

_MAX_REQUEST_BYTES = 512  # a watch keeps its request in memory

WatchContext = grpc.aio.ServicerContext[health_pb2.HealthCheckRequest, health_pb2.HealthCheckResponse]


class HealthServicer(health_pb2_grpc.HealthServicer):
    """The standard health service, based on `readiness`, for "", `service_names` and `LIVENESS`.

    Replaces grpc's own servicer, which holds a lock while it writes to a watcher, so that a slow watcher blocks status
    changes, and which never ends a watch, so that a stop takes its whole timeout.
    """

    def __init__(self, readiness: Readiness, service_names: frozenset[str]) -> None:
        self._readiness: Final = readiness
        self._names: Final = service_names | {""}
        self._watches = 0

    async def Check(  # noqa: N802  # the name in the proto
        self, request: health_pb2.HealthCheckRequest, context: WatchContext
    ) -> health_pb2.HealthCheckResponse:
        """Returns the status of a service. NOT_FOUND: unknown service."""
        status = self._status(request.service)
        if status == SERVICE_UNKNOWN:
            await context.abort(grpc.StatusCode.NOT_FOUND, "no such service")
        return health_pb2.HealthCheckResponse(status=status)

    async def List(self, _: Any, __: WatchContext) -> Any:  # noqa: N802  # the name in the proto
        """Returns the status of every service."""
        names = sorted({*self._names, LIVENESS, *self._readiness.neighbours()})
        statuses = {name: health_pb2.HealthCheckResponse(status=self._status(name)) for name in names}
        return health_pb2.HealthListResponse(statuses=statuses)  # type: ignore[attr-defined]  # stubs are older

    async def Watch(  # noqa: N802  # the name in the proto
        self, request: health_pb2.HealthCheckRequest, context: WatchContext
    ) -> None:
        """Streams the status of a service, now and at each change, until the service has stopped.

        RESOURCE_EXHAUSTED: too many watches. INVALID_ARGUMENT: the request is too long.
        """
        if self._watches >= MAX_WATCHES:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "too many calls of Watch; use Check")
        if request.ByteSize() > _MAX_REQUEST_BYTES:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"longer than {_MAX_REQUEST_BYTES} bytes")
        self._watches += 1
        try:
            await self._send_changes(request.service, context)
        finally:
            self._watches -= 1

    async def _send_changes(self, name: str, context: WatchContext) -> None:
        sent: int | None = None
        while True:
            stage, status = self._readiness.stage, self._status(name)
            if status != sent:
                await context.write(health_pb2.HealthCheckResponse(status=status))
                sent = status
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
