"""What callers can do with executions: start or attach, watch, cancel and delete them. The way in for every rpc.

An execution belongs to the service, not to a call: callers come and go, and only their absence can matter to it. Who
the callers are is not known here.
"""

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress

from runner_service import states
from runner_service.errors import CancelledEnd, ExecutionEnd, NotFoundError, UnavailableError
from runner_service.events.stream import EventStream
from runner_service.events.writer import LogWriter
from runner_service.executions.audit import Audit
from runner_service.executions.deletion import Deletion
from runner_service.executions.execution import Execution
from runner_service.executions.lifecycle import Lifecycle
from runner_service.executions.ownership import ExecutionOwnership, started_elsewhere
from runner_service.executions.registry import Registry
from runner_service.executions.run_context import RunContext
from runner_service.executions.starter import Starter
from runner_service.executors.protocol import SandboxError
from runner_service.identity import OwnerKey, current_caller
from runner_service.storage.execution_filter import ExecutionFilter
from runner_service.storage.ownership import Replicas
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

logger = logging.getLogger(__name__)

_PAGE = 200


class ExecutionService:
    """The executions of this process. Belongs to the event loop. Construct it with `running_executions`."""

    def __init__(
        self,
        context: RunContext,
        registry: Registry,
        lifecycle: Lifecycle,
        starter: Starter,
        ownership: ExecutionOwnership,
        audit: Audit,
        *,
        writer: LogWriter,
        replicas: Replicas | None,
    ) -> None:
        self._log = context.log
        self._registry = registry
        self._lifecycle = lifecycle
        self._starter = starter
        self._ownership = ownership
        self._audit = audit
        self._writer = writer
        self._replicas = replicas
        self._deletion = Deletion(context, registry)

    @property
    def is_busy(self) -> bool:
        """True while something runs or somebody watches."""
        return self._lifecycle.is_busy or self.watchers > 0

    @property
    def watchers(self) -> int:
        """How many callers and watchers there are."""
        return self._registry.watchers

    @asynccontextmanager
    async def started_or_attached(self, request: runner_pb2.ExecuteAgentRequest) -> AsyncIterator[EventStream]:
        """Starts, attaches to or resumes the execution of `request`; counts the caller until the context ends.

        Raises:
            CallError: NOT_FOUND, ALREADY_EXISTS, OUT_OF_RANGE, FAILED_PRECONDITION, RESOURCE_EXHAUSTED or
                UNAVAILABLE, as the contract of ExecuteAgent says.
        """
        execution = await self._starter.start_or_attach(request)
        if request.disconnect_policy:
            execution.policy = request.disconnect_policy
            if self._replicas:
                await self._replicas.set_disconnect_policy(execution.id, request.disconnect_policy)
        execution.callers += 1
        try:
            with self._registry.watching(execution, request.after_sequence, request.after_owner) as stream:
                yield stream
        finally:
            execution.callers -= 1
            self._lifecycle.cancel_if_abandoned(execution)

    @asynccontextmanager
    async def watched(
        self, execution_id: OwnerKey, after_sequence: int, after_owner: int = 0
    ) -> AsyncIterator[EventStream]:
        """Finds an execution to watch until the context ends. Raises NotFoundError, or as `Positions.require` does."""
        with self._registry.watching(await self._registry.find(execution_id), after_sequence, after_owner) as stream:
            yield stream

    @asynccontextmanager
    async def reported(self, execution_id: OwnerKey) -> AsyncIterator[EventStream]:
        """Finds an execution to report it to the daemon, which does not count as watching. Raises NotFoundError."""
        with self._registry.holding(await self._registry.find(execution_id)) as stream:
            yield stream

    async def cancel(self, execution_id: OwnerKey, reason: str) -> "event_pb2.State.ValueType":
        """Ends an execution and returns the state it was in. Raises NotFoundError."""
        end = CancelledEnd(f"cancelled: {reason}" if reason else "cancelled by CancelExecution")
        if caller := current_caller.get(None):
            end.caller = caller.message()
        found = await self.end(execution_id, end)
        self._audit.record("CANCEL", key=execution_id, text=reason)
        return found

    async def end(self, execution_id: OwnerKey, end: ExecutionEnd) -> "event_pb2.State.ValueType":
        """Ends an execution with `end` and returns the state it was in. Raises NotFoundError."""
        execution = await self._registry.find(execution_id)
        with self._registry.holding(execution):
            if not await self._ownership.own_to_end(execution):
                found = execution.state
                await self._cancel_elsewhere(execution, end)
                return found
            if execution.record.pending_approvals:
                await self._registry.load_approvals(execution)  # they are withdrawn
            found = execution.state
            self._lifecycle.end(execution, end)
        return found

    async def _cancel_elsewhere(self, execution: Execution, end: ExecutionEnd) -> None:
        if self._replicas is None:
            raise started_elsewhere(execution.id)
        await self._replicas.cancel(execution.id, end.message)

    async def end_tenant(self, tenant: str) -> None:
        """Ends everything of a tenant that has not ended. Raises LogError."""
        end = CancelledEnd(f"cancelled: the tenant {tenant} is no longer in CALLERS_FILE")
        wanted = ExecutionFilter(states=states.OPEN_STATES, tenant=tenant)
        key, count = 0, 0
        while True:
            page = await self._log.list_executions(wanted, limit=_PAGE, before_key=key)
            for record in page.executions:
                with suppress(NotFoundError):
                    await self.end(OwnerKey(record.execution_id), end)
                    count += 1
            if not (key := page.next_key):
                break
        logger.info("tenant_ended tenant=%s executions=%d", tenant, count)

    async def delete_execution(self, execution_id: OwnerKey) -> None:
        """Deletes an execution. Raises as `Deletion` does; SandboxError as UnavailableError."""
        async with self._starter.lock:
            with _sandbox_errors_as_unavailable():
                await self._deletion.delete_execution(execution_id)
                self._audit.record("DELETE", key=execution_id)

    async def delete_session(self, session_id: OwnerKey) -> int:
        """Deletes a session, and returns how many executions it had. Raises as `delete_execution` does."""
        async with self._starter.lock:
            with _sandbox_errors_as_unavailable():
                deleted = await self._deletion.delete_session(session_id)
                self._audit.record("DELETE", session=session_id)
                return deleted

    async def drain(self, timeout_seconds: float) -> None:
        """Lets executions finish for `timeout_seconds`, then interrupts the rest and ends every stream."""
        await self._lifecycle.drain(timeout_seconds)
        self._writer.expect_end()
        await self._lifecycle.interrupt_all()


@contextmanager
def _sandbox_errors_as_unavailable() -> Iterator[None]:
    try:
        yield
    except (SandboxError, ExecutionEnd) as error:
        raise UnavailableError(f"not all of it could be deleted: {error}") from error
