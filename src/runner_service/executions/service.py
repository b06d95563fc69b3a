"""Starts executions, attaches to them, resumes and ends them for callers. Who the callers are is not known here.

An execution belongs to the service, not to a call: callers come and go, and only their absence can matter to it.
"""

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from runner_service import states
from runner_service.errors import (
    AlreadyExistsError,
    CallError,
    CancelledEnd,
    ExecutionEnd,
    NotFoundError,
    PreconditionError,
    SequenceOutOfRangeError,
    UnavailableError,
)
from runner_service.events.stream import EventStream
from runner_service.events.writer import LogWriter
from runner_service.executions import stored_request
from runner_service.executions.audit import Audit
from runner_service.executions.deletion import Deletion
from runner_service.executions.execution import Execution
from runner_service.executions.lifecycle import Lifecycle
from runner_service.executions.readiness import Readiness
from runner_service.executions.registry import Registry
from runner_service.executions.runner import Runner
from runner_service.executions.tenant_limits import check_ceilings
from runner_service.executors.protocol import SandboxError
from runner_service.identity import OPERATOR, OwnerKey, bare_id, current_caller, owner_key, tenant_of
from runner_service.storage.event_log import EventLog, LogError
from runner_service.storage.execution_filter import ExecutionFilter
from runner_service.storage.ownership import Claim, Ownership, Replicas
from runner_service.storage.shared_queue import Taken
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    from runner_service.stigmer.daemon import Daemon
    from runner_service.stigmer.resolver import Found

    Request = runner_pb2.ExecuteAgentRequest

_PAGE = 200
_STARTED_ELSEWHERE_POLLS, _STARTED_ELSEWHERE_POLL_SECONDS = 40, 0.05


@contextmanager
def _sandbox_errors_as_unavailable() -> Iterator[None]:
    try:
        yield
    except (SandboxError, ExecutionEnd) as error:
        raise UnavailableError(f"not all of it could be deleted: {error}") from error


class ExecutionService:
    """The executions of this process. Belongs to the event loop. Construct it with `execution_service`."""

    def __init__(
        self,
        log: EventLog,
        writer: LogWriter,
        runner: Runner,
        *,
        registry: Registry,
        lifecycle: Lifecycle,
        ownership: Ownership,
        replicas: Replicas | None,
        readiness: Readiness,
        daemon: "Daemon | None",
        audit: Audit,
    ) -> None:
        self.audit = audit
        self._log = log
        self._ownership = ownership
        self._replicas = replicas
        self._writer = writer
        self._runner = runner
        self._registry = registry
        self._lifecycle = lifecycle
        self._readiness = readiness
        self._daemon = daemon
        self._start_lock = asyncio.Lock()
        self._takeover_locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._deletion = Deletion(log, registry, runner)

    @property
    def is_busy(self) -> bool:
        """True while something runs or somebody watches."""
        return self._lifecycle.is_busy or self.watchers > 0

    @property
    def watchers(self) -> int:
        """How many callers and watchers there are."""
        return self._registry.watchers

    @asynccontextmanager
    async def started_or_attached(self, request: "Request") -> AsyncIterator[EventStream]:
        """Starts, attaches to or resumes the execution of `request`; counts the caller until the context ends.

        Raises:
            CallError: NOT_FOUND, ALREADY_EXISTS, OUT_OF_RANGE, FAILED_PRECONDITION, RESOURCE_EXHAUSTED or
                UNAVAILABLE, as the contract of ExecuteAgent says.
        """
        execution = await self._start_or_attach(request)
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
        self.audit.record("CANCEL", key=execution_id, text=reason)
        return found

    async def delete_execution(self, execution_id: OwnerKey) -> None:
        """Deletes an execution. Raises as `Deletion` does; SandboxError as UnavailableError."""
        async with self._start_lock:
            with _sandbox_errors_as_unavailable():
                await self._deletion.delete_execution(execution_id)
                self.audit.record("DELETE", key=execution_id)

    async def delete_session(self, session_id: OwnerKey) -> int:
        """Deletes a session, and returns how many executions it had. Raises as `delete_execution` does."""
        async with self._start_lock:
            with _sandbox_errors_as_unavailable():
                deleted = await self._deletion.delete_session(session_id)
                self.audit.record("DELETE", session=session_id)
                return deleted

    async def end(self, execution_id: OwnerKey, end: ExecutionEnd) -> "event_pb2.State.ValueType":
        """Ends an execution with `end` and returns the state it was in. Raises NotFoundError."""
        execution = await self._registry.find(execution_id)
        with self._registry.holding(execution):
            if not await self._lifecycle.own_to_end(execution):
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
            raise _started_elsewhere(execution.id)
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

    async def resume(self, execution_id: OwnerKey) -> None:
        """Resumes an interrupted execution with what is stored of its request. It no longer depends on callers.

        Raises:
            CallError: as of `started_or_attached`.
        """
        execution = await self._registry.find(execution_id)
        with self._registry.holding(execution):
            execution.policy = runner_pb2.DISCONNECT_POLICY_DETACH
            await self._resume_if_interrupted(execution, execution.request)

    async def take_over(self, execution_id: OwnerKey, *, anew: bool = False) -> None:
        """Resumes an execution whose process is gone; one that cannot be resumed is left INTERRUPTED.

        `anew`: also one that this process owns, but does not work on.

        Raises:
            CallError: as of `started_or_attached`.
        """
        async with self._remote(execution_id) as execution:
            if execution and await self._lifecycle.own(execution, anew=anew):
                await self._go_on(execution)

    async def start_taken(self, taken: Taken) -> None:
        """Starts an execution that this process has taken out of the queue, and another one may have accepted.

        One that cannot be started here is left to others. Raises LogError: call again.
        """
        async with self._remote(OwnerKey(taken.execution_id)) as execution:
            if execution is None:
                return
            is_own = await self._lifecycle.own(execution, token=taken.token)
            if not is_own and await self._ownership.abandoned([execution.id]):  # whoever has taken it before is gone
                is_own = await self._lifecycle.own(execution)
            if not is_own:
                return
            execution.has_callers_elsewhere = True  # until the replica that accepted it says that they have left
            try:
                await self._go_on(execution)
            except LogError:
                raise
            except CallError as error:
                logger.warning("taken_not_started execution=%s reason=%s", execution.id, error)
                if self._replicas and isinstance(error, UnavailableError):
                    await self._replicas.hand_over([execution.id])

    @asynccontextmanager
    async def _remote(self, execution_id: OwnerKey) -> AsyncIterator[Execution | None]:
        """Finds an execution that has not ended and is not this process's, for one caller at a time.

        Its owner may be found dead at the same time in which the queue lets it go on.
        """
        lock = self._takeover_locks.setdefault(execution_id, asyncio.Lock())
        async with lock:
            execution = await self._registry.lookup(execution_id)
            if execution is None or execution.is_final or not execution.is_remote:
                yield None
                return
            with self._registry.holding(execution):
                yield execution

    async def _go_on(self, execution: Execution) -> None:
        """Resumes what another process has left. Raises CallError; then it is left INTERRUPTED."""
        if execution.is_active:
            execution.mark_interrupted()
        try:
            if execution.can_be_resumed:
                logger.info("execution_taken_over execution=%s", execution.id)
                await self.resume(execution.id)
                if self._daemon:
                    await self._daemon.follow_if_pending(execution.id)
                # It depends on its callers as before, at whichever replica they are.
                execution.policy = runner_pb2.DISCONNECT_POLICY_CANCEL
        finally:
            await self._lifecycle.release(execution)

    async def resume_waiting(self, execution: Execution) -> None:
        """Resumes a waiting execution, with the request in memory, in the log, or at the daemon.

        If its request had secrets, and another process accepted it, it becomes INTERRUPTED until a caller sends it.

        Raises:
            CallError: as of `started_or_attached`.
        """
        run = self._lifecycle.parked_run(execution.id)
        request = run.request if run else execution.request
        if not stored_request.is_complete(request):
            self._lifecycle.interrupt_waiting(execution)
            if request:
                await self.resume(execution.id)
            return
        prepared = await self._runner.prepare(request, resumes=True) if request else None
        await self.own(execution)
        if execution.is_waiting and prepared:  # another decision may have been faster
            self._lifecycle.resume(execution, prepared)

    async def drain(self, timeout_seconds: float) -> None:
        """Lets executions finish for `timeout_seconds`, then interrupts the rest and ends every stream."""
        await self._lifecycle.drain(timeout_seconds)
        self._writer.expect_end()
        await self._lifecycle.interrupt_all()

    async def _start_or_attach(self, request: "Request") -> Execution:
        fingerprint = self._fingerprint(request)
        key = OwnerKey(request.execution_id)
        async with self._start_lock:
            execution = await self._registry.lookup(key) if key else None
            if execution is None and (request.HasField("agent") or not self._may_be_at_daemon(key)):
                execution = await self._start(request, fingerprint, stored_request.storable(request), {})
        if execution is None:
            return await self._start_by_id(request)
        if request.HasField("agent") and execution.fingerprint != fingerprint:
            raise AlreadyExistsError(
                f"execution {execution.name} exists with another request; choose another execution_id, "
                "or leave out agent to attach to the one that exists"
            )
        with self._registry.holding(execution):
            await self._resume_if_interrupted(execution, request if request.HasField("agent") else execution.request)
        return execution

    async def _start(
        self, request: "Request", fingerprint: bytes, stored: "Request | None", values: Mapping[str, bytes]
    ) -> Execution:
        if not request.HasField("agent"):
            raise NotFoundError(
                f"execution {bare_id(request.execution_id)} is not in the log; send the agent to start it"
            )
        self._require_readiness()
        if request.after_sequence:
            raise SequenceOutOfRangeError(
                f"after_sequence is {request.after_sequence}, but there is no execution "
                f"{bare_id(request.execution_id)} yet, or "
                "it was pruned; to start it, leave after_sequence out"
            )
        tenant = tenant_of(request.execution_id or _new_key())
        if usage := self._runner.tenant_usage:
            check_ceilings(request.limits, usage.tenants.limits_of(tenant))
        run = await self._runner.prepare(request)
        await self._lifecycle.require_room(request.session_id, tenant)
        if usage:
            await usage.require_start(tenant)
        key = OwnerKey(request.execution_id)
        claim = await self._ownership.claim(key or _new_key())
        if self._replicas and key and (known := await self._find_started(claim, key)):
            return known
        if claim is None:
            raise _started_elsewhere(key)
        await self._lifecycle.join_queue(request.session_id, claim, stored)
        execution = self._lifecycle.start(run, claim, fingerprint=fingerprint, stored_request=stored, values=values)
        self._record("START", execution, request)
        return execution

    async def _find_started(self, claim: Claim | None, key: OwnerKey) -> Execution | None:
        """Returns an execution that another replica has accepted at the same time, or since it was looked up."""
        for _ in range(_STARTED_ELSEWHERE_POLLS):
            if known := await self._registry.lookup(key):
                if claim:
                    await self._ownership.release(claim.execution_id)
                return known
            if claim:
                return None
            await asyncio.sleep(_STARTED_ELSEWHERE_POLL_SECONDS)
        return None

    async def _start_by_id(self, request: "Request") -> Execution:
        self._require_readiness()
        found = await self._read_from_daemon(request)
        redactor = await self._runner.redactor(found.request)
        stored = await asyncio.to_thread(stored_request.storable_by_id, found.request, redactor)
        async with self._start_lock:
            # Another call may have been faster.
            if (known := await self._registry.lookup(OwnerKey(request.execution_id))) is not None:
                return known
            values = self._daemon.execution_values if self._daemon else {}
            execution = await self._start(found.request, self._fingerprint(found.request), stored, values)
        self._report_to_daemon(execution, found)
        return execution

    async def _resume_if_interrupted(self, execution: Execution, request: "Request | None") -> None:
        if execution.can_be_resumed and not execution.has_started:
            await self._resume_predecessors(execution.session)
        if not execution.can_be_resumed:
            return
        if request and stored_request.is_reference(request):
            await self._resume_by_id(execution, request)
        else:
            await self._resume(execution, request)

    async def _resume_predecessors(self, session_id: OwnerKey) -> None:
        """Resumes what was running in a session, if possible, before an execution that was waiting for it."""
        for earlier in await self._registry.interrupted(session_id) if session_id else ():
            if earlier.has_started and stored_request.is_complete(earlier.request):
                await self._resume(earlier, earlier.request)

    async def _resume_by_id(self, execution: Execution, request: "Request") -> None:
        found = await self._read_from_daemon(request)
        if execution.can_be_resumed:
            await self._resume(execution, found.request)
            self._report_to_daemon(execution, found)

    async def _resume(self, execution: Execution, request: "Request | None") -> None:
        if request is None:
            raise PreconditionError(
                f"execution {execution.name} was interrupted, and it had secrets, which are never stored: "
                "to resume it, send the whole request again; to end it, call CancelExecution"
            )
        self._require_readiness()
        self._runner.require_same_root(execution)
        run = await self._runner.prepare(request, resumes=True)
        await self.own(execution)
        if execution.can_be_resumed:  # another call may have been faster
            self._lifecycle.resume(execution, run)
            self._record("RESUME", execution, request)

    def _record(self, action: str, execution: Execution, request: "Request") -> None:
        """Records what was done with an execution, and which secrets it was given, by their names."""
        names = sorted(name for name, entry in request.environment.items() if entry.is_secret)
        self.audit.record(action, key=execution.id, session=execution.session, secret_names=names)

    async def own(self, execution: Execution) -> None:
        """Makes this process the owner of an execution that is not active. Raises UnavailableError, LogError."""
        if not await self._lifecycle.own(execution):
            raise _started_elsewhere(execution.id)

    async def _read_from_daemon(self, request: "Request") -> "Found":
        if self._daemon is None:
            raise PreconditionError(
                f"execution {bare_id(request.execution_id)} came from a Stigmer daemon, which has its secrets: "
                "set STIGMER_BACKEND_ENDPOINT to resume it, or call CancelExecution to end it"
            )
        return await self._daemon.read(request)

    def _may_be_at_daemon(self, key: OwnerKey) -> bool:
        """What the daemon has is read with the service's own key, so it is there for one tenant alone."""
        return self._daemon is not None and tenant_of(key) == self._daemon.tenant

    def _report_to_daemon(self, execution: Execution, found: "Found") -> None:
        for notice in found.notices:
            execution.stream.publish(notice)
        if self._daemon:
            self._daemon.follow(execution.id)

    def _require_readiness(self) -> None:
        self._readiness.require_serving()
        if self._writer.broken:
            raise UnavailableError(self._writer.broken.message, retry_delay=5.0)

    def _fingerprint(self, request: "Request") -> bytes:
        return stored_request.fingerprint(request, self._log.fingerprint_key)


def _new_key() -> OwnerKey:
    return owner_key(current_caller.get(OPERATOR).tenant, uuid.uuid4().hex)


def _started_elsewhere(execution_id: OwnerKey) -> UnavailableError:
    return UnavailableError(f"execution {bare_id(execution_id)} was just started elsewhere; attach again")
