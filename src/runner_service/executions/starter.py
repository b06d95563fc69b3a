"""Starts the execution of a request, or finds the one that its id names: in the log, at a replica, or at the daemon."""

import asyncio
import uuid
from collections.abc import Callable, Mapping

from runner_service.errors import (
    AlreadyExistsError,
    NotFoundError,
    QueueFullError,
    QuotaExceededError,
    SequenceOutOfRangeError,
)
from runner_service.executions import stored_request
from runner_service.executions.audit import Audit
from runner_service.executions.daemon_requests import DaemonRequests
from runner_service.executions.execution import Execution
from runner_service.executions.execution_limits import check_ceilings
from runner_service.executions.lifecycle import Lifecycle
from runner_service.executions.ownership import started_elsewhere
from runner_service.executions.registry import Registry
from runner_service.executions.resumer import Resumer
from runner_service.executions.run_context import RunContext
from runner_service.executions.runner import prepare
from runner_service.identity import OPERATOR, OwnerKey, bare_id, current_caller, owner_key, tenant_of
from runner_service.storage.ownership import Claim, Ownership, Replicas
from runner_service.storage.queue import Queue
from runner_service.storage.shared_queue import Entrant
from runner_service.v1 import agent_runner_pb2 as runner_pb2

Request = runner_pb2.ExecuteAgentRequest

_STARTED_ELSEWHERE_POLLS, _STARTED_ELSEWHERE_POLL_SECONDS = 40, 0.05


class Starter:
    """Belongs to the event loop. `require_ready` raises UnavailableError while nothing may begin."""

    def __init__(
        self,
        context: RunContext,
        registry: Registry,
        lifecycle: Lifecycle,
        resumer: Resumer,
        requests: DaemonRequests,
        queue: Queue,
        audit: Audit,
        *,
        claims: Ownership,
        replicas: Replicas | None,
        require_ready: Callable[[], None],
    ) -> None:
        self._context = context
        self._registry = registry
        self._lifecycle = lifecycle
        self._resumer = resumer
        self._requests = requests
        self._queue = queue
        self._audit = audit
        self._claims = claims
        self._replicas = replicas
        self._require_ready = require_ready
        self.lock = asyncio.Lock()
        """Held while an execution starts: of two requests with one id the second finds the first."""

    async def start_or_attach(self, request: Request) -> Execution:
        """Starts, finds or resumes the execution of `request`.

        Raises:
            CallError: as of `ExecutionService.started_or_attached`.
        """
        fingerprint = self._fingerprint(request)
        key = OwnerKey(request.execution_id)
        async with self.lock:
            execution = await self._registry.lookup(key) if key else None
            if execution is None and (request.HasField("agent") or not self._requests.may_have(key)):
                execution = await self._start(request, fingerprint, stored_request.storable(request), {})
        if execution is None:
            return await self._start_by_id(request)
        if request.HasField("agent") and execution.fingerprint != fingerprint:
            raise AlreadyExistsError(
                f"execution {execution.name} exists with another request; choose another execution_id, "
                "or leave out agent to attach to the one that exists"
            )
        with self._registry.holding(execution):
            known = request if request.HasField("agent") else execution.request
            await self._resumer.resume_if_interrupted(execution, known)
        return execution

    async def _start_by_id(self, request: Request) -> Execution:
        self._require_ready()
        found = await self._requests.read(request)
        redactor = await self._context.redactors.for_request(found.request)
        stored = await asyncio.to_thread(stored_request.storable_by_id, found.request, redactor)
        async with self.lock:
            # Another call may have been faster.
            if (known := await self._registry.lookup(OwnerKey(request.execution_id))) is not None:
                return known
            fingerprint = self._fingerprint(found.request)
            execution = await self._start(found.request, fingerprint, stored, self._requests.values())
        self._requests.report(execution, found)
        return execution

    async def _start(
        self, request: Request, fingerprint: bytes, stored: Request | None, values: Mapping[str, bytes]
    ) -> Execution:
        self._require_startable(request)
        asked = OwnerKey(request.execution_id)
        key = asked or _new_key()
        tenant = tenant_of(key)
        check_ceilings(request.limits, self._context.limits_of(tenant))
        run = await prepare(self._context, request)
        await self._queue.require_room(request.session_id, tenant)
        await self._context.tenant_usage.require_start(tenant)
        claim = await self._claims.claim(key)
        if self._replicas and asked and (known := await self._find_started(claim, key)):
            return known
        if claim is None:
            raise started_elsewhere(key)
        await self._join_queue(request.session_id, claim, stored)
        execution = self._lifecycle.start(run, claim, fingerprint=fingerprint, stored_request=stored, values=values)
        self._audit.record_request("START", execution.id, execution.session, request)
        return execution

    def _require_startable(self, request: Request) -> None:
        if not request.HasField("agent"):
            raise NotFoundError(
                f"execution {bare_id(request.execution_id)} is not in the log; send the agent to start it"
            )
        self._require_ready()
        if request.after_sequence:
            raise SequenceOutOfRangeError(
                f"after_sequence is {request.after_sequence}, but there is no execution "
                f"{bare_id(request.execution_id)} yet, or "
                "it was pruned; to start it, leave after_sequence out"
            )

    async def _find_started(self, claim: Claim | None, key: OwnerKey) -> Execution | None:
        """Returns an execution that another replica has accepted at the same time, or since it was looked up."""
        for _ in range(_STARTED_ELSEWHERE_POLLS):
            if known := await self._registry.lookup(key):
                if claim:
                    await self._claims.release(claim.execution_id)
                return known
            if claim:
                return None
            await asyncio.sleep(_STARTED_ELSEWHERE_POLL_SECONDS)
        return None

    async def _join_queue(self, session_id: str, claim: Claim, stored: Request | None) -> None:
        """Raises QueueFullError, QuotaExceededError, LogError; then the claim is released."""
        is_pinned = not self._registry.is_portable(stored)
        try:
            await self._queue.join(Entrant(claim.execution_id, session_id, claim.token, is_pinned))
        except (QueueFullError, QuotaExceededError):
            await self._claims.release(claim.execution_id)
            raise

    def _fingerprint(self, request: Request) -> bytes:
        return stored_request.fingerprint(request, self._context.log.fingerprint_key)


def _new_key() -> OwnerKey:
    return owner_key(current_caller.get(OPERATOR).tenant, uuid.uuid4().hex)
