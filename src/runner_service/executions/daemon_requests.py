"""Requests that the Stigmer daemon has: executions that a caller names by their id alone."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from runner_service.errors import PreconditionError
from runner_service.executions.execution import Execution
from runner_service.identity import OwnerKey, bare_id, tenant_of
from runner_service.v1 import agent_runner_pb2 as runner_pb2

if TYPE_CHECKING:
    from runner_service.stigmer.daemon import Daemon
    from runner_service.stigmer.resolver import Found


class DaemonRequests:
    """Reads requests from the daemon, if there is one, and has the executions reported to it."""

    def __init__(self, daemon: "Daemon | None") -> None:
        self._daemon = daemon

    def may_have(self, key: OwnerKey) -> bool:
        """What the daemon has is read with the service's own key, so it is there for one tenant alone."""
        return self._daemon is not None and tenant_of(key) == self._daemon.tenant

    async def read(self, request: runner_pb2.ExecuteAgentRequest) -> "Found":
        """Reads the request that `request` names. Raises CallError."""
        if self._daemon is None:
            raise PreconditionError(
                f"execution {bare_id(request.execution_id)} came from a Stigmer daemon, which has its secrets: "
                "set STIGMER_BACKEND_ENDPOINT to resume it, or call CancelExecution to end it"
            )
        return await self._daemon.read(request)

    def values(self) -> Mapping[str, bytes]:
        """Returns what is stored with an execution of the daemon, so that it is reported even after a crash."""
        return self._daemon.execution_values if self._daemon else {}

    def report(self, execution: Execution, found: "Found") -> None:
        """Publishes what reading the request has brought up, and starts reporting the execution."""
        for notice in found.notices:
            execution.stream.publish(notice)
        if self._daemon:
            self._daemon.follow(execution.id)

    async def report_if_pending(self, execution: Execution) -> None:
        """Starts reporting an execution that another process has begun to report. Raises LogError."""
        if self._daemon:
            await self._daemon.follow_if_pending(execution.id)
