"""What a request means: the start of an execution, the way back to one, or a reason to let it go on."""

import asyncio
from typing import TYPE_CHECKING

from runner_service.errors import (
    AlreadyExistsError,
    NotFoundError,
    PreconditionError,
    SequenceOutOfRangeError,
    UnavailableError,
)
from runner_service.events.writer import LogWriter
from runner_service.executions import stored_request
from runner_service.executions.execution import Execution
from runner_service.executions.lifecycle import Lifecycle
from runner_service.executions.readiness import Readiness
from runner_service.executions.registry import Registry
from runner_service.executions.runner import Work
from runner_service.storage.event_log import EventLog
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

if TYPE_CHECKING:
    from runner_service.stigmer.daemon import Daemon
    from runner_service.stigmer.resolver import Found


class Starting:
    """Starts executions, and lets interrupted ones go on. Belongs to the event loop."""

    def __init__(
        self,
        log: EventLog,
        writer: LogWriter,
        work: Work,
        *,
        registry: Registry,
        lifecycle: Lifecycle,
        readiness: Readiness,
        daemon: "Daemon | None",
    ) -> None:
        self._log = log
        self._writer = writer
        self._work = work
        self._registry = registry
        self._lifecycle = lifecycle
        self._readiness = readiness
        self._daemon = daemon
        self._one_at_a_time = asyncio.Lock()

    async def start_or_find(self, request: runner_pb2.ExecuteAgentRequest) -> Execution:
        """Returns the execution of a request, which is new, or at work again, or was there.

        Raises:
            CallError: NOT_FOUND, ALREADY_EXISTS, OUT_OF_RANGE, FAILED_PRECONDITION, RESOURCE_EXHAUSTED or
                UNAVAILABLE, as the contract of ExecuteAgent says.
        """
        fingerprint = self._fingerprint(request)
        async with self._one_at_a_time:
            execution = await self._registry.lookup(request.execution_id) if request.execution_id else None
            if execution is None and (request.HasField("agent") or self._daemon is None):
                return self._start(request, fingerprint, stored_request.kept(request))
        if execution is None:
            return await self._start_by_id(request)
        if request.HasField("agent") and execution.fingerprint != fingerprint:
            raise AlreadyExistsError(
                f"execution {execution.id} exists with another request; choose another execution_id, "
                "or leave out agent to attach to the one that exists"
            )
        with self._registry.held(execution):
            await self._go_on(execution, request if request.HasField("agent") else execution.request)
        return execution

    async def resume(self, execution_id: str) -> None:
        """Goes on with an interrupted execution, with what is stored of its request; nobody leaving ends it.

        Raises:
            CallError: as of `start_or_find`.
        """
        execution = await self._registry.find(execution_id)
        with self._registry.held(execution):
            execution.policy = runner_pb2.DISCONNECT_POLICY_DETACH
            await self._go_on(execution, execution.request)

    async def _go_on(self, execution: Execution, request: runner_pb2.ExecuteAgentRequest | None) -> None:
        if execution.state == event_pb2.STATE_INTERRUPTED and not execution.has_begun:
            await self._resume_begun(execution.record.session_id)
        if execution.state != event_pb2.STATE_INTERRUPTED:
            return
        if request and stored_request.is_reference(request):
            await self._resume_by_id(execution, request)
        else:
            self._resume(execution, request)

    async def _resume_begun(self, session_id: str) -> None:
        """Lets a session go on with the execution that was at work, if it can, before one that was waiting for it."""
        for earlier in await self._registry.interrupted(session_id) if session_id else ():
            if earlier.has_begun and stored_request.is_whole(earlier.request):
                self._resume(earlier, earlier.request)

    async def _start_by_id(self, request: runner_pb2.ExecuteAgentRequest) -> Execution:
        self._require_readiness()
        found = await self._read(request)
        kept = stored_request.kept_by_id(found.request, self._work.redactor(found.request))
        async with self._one_at_a_time:
            # Another call may have been faster.
            if (known := await self._registry.lookup(request.execution_id)) is not None:
                return known
            execution = self._start(found.request, self._fingerprint(found.request), kept)
        self._show(execution, found)
        return execution

    async def _resume_by_id(self, execution: Execution, request: runner_pb2.ExecuteAgentRequest) -> None:
        found = await self._read(request)
        if execution.state == event_pb2.STATE_INTERRUPTED:
            self._resume(execution, found.request)
            self._show(execution, found)

    async def _read(self, request: runner_pb2.ExecuteAgentRequest) -> "Found":
        if self._daemon is None:
            raise PreconditionError(
                f"execution {request.execution_id} came from a Stigmer daemon, which has its secrets: "
                "set STIGMER_BACKEND_ENDPOINT to go on, or call CancelExecution to end it"
            )
        return await self._daemon.read(request)

    def _show(self, execution: Execution, found: "Found") -> None:
        for notice in found.notices:
            execution.stream.publish(notice)
        if self._daemon:
            self._daemon.follow(execution.id)

    def _start(
        self,
        request: runner_pb2.ExecuteAgentRequest,
        fingerprint: bytes,
        kept: runner_pb2.ExecuteAgentRequest | None,
    ) -> Execution:
        if not request.HasField("agent"):
            raise NotFoundError(f"execution {request.execution_id} is not in the log; send the agent to start it")
        self._require_readiness()
        if request.after_sequence:
            raise SequenceOutOfRangeError(
                f"after_sequence is {request.after_sequence}, but there is no execution {request.execution_id} yet, or "
                "it was pruned; to start it, leave after_sequence out"
            )
        job = self._work.job(request)
        self._lifecycle.require_room(request.session_id)
        redactor = self._work.redactor(request)
        execution = self._registry.accept(request, redactor, fingerprint=fingerprint, kept=kept)
        self._lifecycle.begin(execution, job)
        return execution

    def _resume(self, execution: Execution, request: runner_pb2.ExecuteAgentRequest | None) -> None:
        if request is None:
            raise PreconditionError(
                f"execution {execution.id} was interrupted, and it had secrets, which are never stored: "
                "to go on, send the whole request again; to end it, call CancelExecution"
            )
        self._require_readiness()
        job = self._work.job(request, resumes=True)
        execution.redactor = self._work.redactor(request)
        execution.revive()
        self._lifecycle.begin(execution, job)

    def _require_readiness(self) -> None:
        self._readiness.require_serving()
        if self._writer.broken:
            raise UnavailableError(self._writer.broken.message, retry_delay=5.0)

    def _fingerprint(self, request: runner_pb2.ExecuteAgentRequest) -> bytes:
        return stored_request.fingerprint(request, self._log.fingerprint_key)
