"""The registry of executions: started or found by id, run by tasks of its own, watched by any number of callers.

An execution belongs to the service, not to a call: callers come and go, and only their absence can matter to it.
"""

import asyncio
import hashlib
import logging
import uuid
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from opentelemetry.trace import SpanContext

from runner_service.admission import Admission, Turn
from runner_service.errors import (
    AlreadyExistsError,
    CallError,
    CancelledEnd,
    ExecutionEnd,
    InterruptedEnd,
    NotFoundError,
    PreconditionError,
    SequenceOutOfRangeError,
    UnavailableError,
)
from runner_service.eventlog import FINAL_STATES, EventLog, LogError, NewExecution, StoredExecution
from runner_service.events import EventStream, LogWriter
from runner_service.execution import Execution
from runner_service.health import Readiness
from runner_service.settings import Settings
from runner_service.telemetry import current_span_context, execution_span, metrics, record_failure, redact_with
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2
from runner_service.work import Job, Work

if TYPE_CHECKING:
    from runner_service.stigmer.daemon import Daemon
    from runner_service.stigmer.reading import Found

logger = logging.getLogger(__name__)

_PRUNE_EVERY = 60.0
_RESUMED_AT_MOST = 10_000
_LONGEST_KEPT = 1024 * 1024
_STOPPING = UnavailableError("the service is stopping; attach again to see how this execution goes on")


class Executions:
    """All executions of this process. Construct it with `running_executions`."""

    def __init__(
        self,
        settings: Settings,
        log: EventLog,
        writer: LogWriter,
        work: Work,
        *,
        readiness: Readiness,
        tasks: asyncio.TaskGroup,
        daemon: "Daemon | None" = None,
    ) -> None:
        self._settings = settings
        self._log = log
        self._writer = writer
        self._work = work
        self._readiness = readiness
        self._tasks = tasks
        self._daemon = daemon
        self._resuming: asyncio.Task[None] | None = None
        self._admission = Admission(at_once=settings.max_concurrent_executions, queued=settings.max_queued_executions)
        self._known: dict[str, Execution] = {}
        self._turns: dict[str, Turn] = {}
        self._watchers = 0
        self._running: set[asyncio.Task[None]] = set()
        self._one_start_at_a_time = asyncio.Lock()

    @property
    def are_busy(self) -> bool:
        """True while something runs or somebody watches."""
        return bool(self._running) or any(execution.watchers for execution in self._known.values())

    def readings(self) -> dict[metrics.Gauge, metrics.Reading]:
        """Says how many there are, and may be."""
        admission, settings = self._admission, self._settings
        limits = {"running": settings.max_concurrent_executions, "queued": settings.max_queued_executions}
        return {
            metrics.EXECUTIONS: lambda: {"running": admission.at_work, "queued": admission.waiting},
            metrics.EXECUTIONS_LIMIT: lambda: limits,
            metrics.WATCHERS: lambda: self._watchers,
        }

    @asynccontextmanager
    async def called(self, request: runner_pb2.ExecuteAgentRequest) -> AsyncIterator[EventStream]:
        """Starts the execution of `request`, or finds it, and counts the caller until the context ends.

        Raises:
            CallError: NOT_FOUND, ALREADY_EXISTS, OUT_OF_RANGE, FAILED_PRECONDITION, RESOURCE_EXHAUSTED or
                UNAVAILABLE, as the contract of ExecuteAgent says.
        """
        execution = await self._start_or_find(request)
        if request.disconnect_policy:
            execution.policy = request.disconnect_policy
        execution.callers += 1
        try:
            async with self._watching(execution, request.after_sequence):
                yield execution.stream
        finally:
            execution.callers -= 1
            self._mind_absence(execution)

    @asynccontextmanager
    async def watched(self, execution_id: str, after_sequence: int) -> AsyncIterator[EventStream]:
        """Finds an execution to look on until the context ends. Raises NotFoundError, SequenceOutOfRangeError."""
        async with self._watching(await self._find(execution_id), after_sequence) as stream:
            yield stream

    async def cancel(self, execution_id: str, reason: str) -> "event_pb2.State.ValueType":
        """Ends an execution and says where it stood. Raises NotFoundError."""
        execution = await self._find(execution_id)
        found = execution.state
        end = CancelledEnd(f"cancelled: {reason}" if reason else "cancelled by CancelExecution")
        if execution.is_at_work:
            execution.end(end)
        elif not execution.is_final:
            execution.finish(end)
        self._forget_if_idle(execution)
        return found

    async def drain(self, patience: float) -> None:
        """Lets executions finish for `patience` seconds, then leaves the rest INTERRUPTED and ends every stream.

        Those that wait for their turn are left INTERRUPTED at once: their callers are to look elsewhere.
        """
        self._admission.close()
        for execution in [self._known[name] for name, turn in self._turns.items() if not turn.has_come]:
            execution.interrupt()
            execution.close(_STOPPING)
        if self._running:
            logger.info("drain_waits executions=%d seconds=%g", len(self._running), patience)
            await asyncio.wait(self._running, timeout=patience)
        await self.interrupt_all()

    async def interrupt_all(self) -> None:
        """Stops what runs and what waits, to be continued by a later process, and ends every stream."""
        self._admission.close()
        if self._resuming:
            self._resuming.cancel()
        for execution in list(self._known.values()):
            if execution.is_at_work:
                execution.interrupt()
        if self._running:
            await asyncio.wait(self._running)
        for execution in self._known.values():
            execution.close(_STOPPING)

    async def resume_interrupted(self) -> None:
        """Goes on with every interrupted execution that had no secrets, the oldest first; nobody leaving ends them.

        Those whose secrets the Stigmer daemon has follow when it answers.
        """
        by_id: list[runner_pb2.ExecuteAgentRequest] = []
        for record in reversed(await self._interrupted()):
            execution = await self._find(record.execution_id)
            execution.policy = runner_pb2.DISCONNECT_POLICY_DETACH
            if execution.request and not execution.request.HasField("agent"):
                by_id.append(execution.request)
                continue
            try:
                self._resume(execution, execution.request)
            except CallError as error:
                logger.warning("resume_refused execution=%s reason=%s", execution.id, error)
                self._forget_if_idle(execution)
        if by_id:
            self._resuming = self._tasks.create_task(self._resume_all_by_id(by_id), name="resume-by-id")

    async def _resume_all_by_id(self, requests: Sequence[runner_pb2.ExecuteAgentRequest]) -> None:
        for request in requests:
            while True:
                try:
                    execution = await self._resume_by_id(request)
                    execution.policy = runner_pb2.DISCONNECT_POLICY_DETACH
                    break
                except UnavailableError as error:
                    await asyncio.sleep(error.retry_delay)
                except CallError as error:
                    logger.warning("resume_refused execution=%s reason=%s", request.execution_id, error)
                    break

    async def prune_forever(self) -> None:
        """Forgets old executions, now and every minute."""
        settings = self._settings
        while True:
            try:
                forgotten = await self._log.prune(max_age=settings.log_max_age, max_bytes=settings.log_max_bytes)
                logger.debug("log_pruned executions=%d", forgotten)
            except LogError as error:
                logger.warning("log_prune_failed error=%s", error)
            for execution in list(self._known.values()):
                self._forget_if_idle(execution)
            await asyncio.sleep(_PRUNE_EVERY)

    async def forget_ended_forever(self) -> None:
        """Clears up after executions that ended while nobody was there to do it, now and every minute."""
        while True:
            try:
                await self._work.forget_ended(self._is_at_work)
            except (LogError, ExecutionEnd) as error:
                logger.warning("forgetting_failed error=%s", error)
            await asyncio.sleep(_PRUNE_EVERY)

    def _is_at_work(self, execution_id: str) -> bool:
        execution = self._known.get(execution_id)
        return execution is not None and execution.is_at_work

    async def _start_or_find(self, request: runner_pb2.ExecuteAgentRequest) -> Execution:
        fingerprint = self._fingerprint(request)
        async with self._one_start_at_a_time:
            execution = await self._lookup(request.execution_id) if request.execution_id else None
            if execution is None and (request.HasField("agent") or self._daemon is None):
                return self._start(request, fingerprint)
        if execution is None:
            return await self._start_by_id(request)
        if request.HasField("agent") and execution.fingerprint != fingerprint:
            raise AlreadyExistsError(
                f"execution {execution.id} exists with another request; choose another execution_id, "
                "or leave out agent to attach to the one that exists"
            )
        if execution.state == event_pb2.STATE_INTERRUPTED and not execution.has_begun:
            await self._resume_begun(execution.record.session_id)
        if execution.state == event_pb2.STATE_INTERRUPTED:
            whole = request if request.HasField("agent") else execution.request
            if whole and not whole.HasField("agent"):
                return await self._resume_by_id(whole)
            self._resume(execution, whole)
        return execution

    async def _start_by_id(self, request: runner_pb2.ExecuteAgentRequest) -> Execution:
        self._require_readiness()
        found = await self._read(request)
        async with self._one_start_at_a_time:
            # Another call may have been faster.
            if (known := await self._lookup(request.execution_id)) is not None:
                return known
            execution = self._start(found.request, self._fingerprint(found.request), by_id=True)
        self._show(execution, found)
        return execution

    async def _resume_by_id(self, request: runner_pb2.ExecuteAgentRequest) -> Execution:
        found = await self._read(request)
        execution = await self._find(request.execution_id)
        if execution.state == event_pb2.STATE_INTERRUPTED:
            self._resume(execution, found.request)
            self._show(execution, found)
        return execution

    async def _resume_begun(self, session_id: str) -> None:
        """Lets a session go on with the execution that was at work, if it can, before one that was waiting for it."""
        for record in await self._interrupted(session_id) if session_id else ():
            earlier = await self._find(record.execution_id)
            if earlier.state == event_pb2.STATE_INTERRUPTED and earlier.has_begun and _is_whole(earlier.request):
                self._resume(earlier, earlier.request)

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

    def _start(self, request: runner_pb2.ExecuteAgentRequest, fingerprint: bytes, *, by_id: bool = False) -> Execution:
        if not request.HasField("agent"):
            raise NotFoundError(f"execution {request.execution_id} is not in the log; send the agent to start it")
        self._require_readiness()
        if request.after_sequence:
            raise SequenceOutOfRangeError(
                f"after_sequence is {request.after_sequence}, but there is no execution {request.execution_id} yet, or "
                "it was pruned; to start it, leave after_sequence out"
            )
        job = self._work.job(request)
        self._admission.require_room(request.session_id)
        execution = self._accept(request, fingerprint, _reference(request, self._work) if by_id else None)
        self._begin(execution, job)
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
        self._begin(execution, job)

    def _require_readiness(self) -> None:
        self._readiness.require_serving()
        if self._writer.broken:
            raise UnavailableError(self._writer.broken.message, retry_delay=5.0)

    def _accept(
        self,
        request: runner_pb2.ExecuteAgentRequest,
        fingerprint: bytes,
        reference: runner_pb2.ExecuteAgentRequest | None,
    ) -> Execution:
        redactor = self._work.redactor(request)
        record = runner_pb2.Execution(
            execution_id=request.execution_id or uuid.uuid4().hex,
            session_id=request.session_id,
            state=event_pb2.STATE_PENDING,
            agent_name=redactor.text(request.agent.name),
            labels={redactor.text(key): redactor.text(value) for key, value in request.labels.items()},
        )
        record.create_time.GetCurrentTime()
        stream = EventStream(record.execution_id, self._writer, self._log)
        execution = Execution(record, fingerprint, stream, _kept(request, reference))
        execution.redactor = redactor
        self._known[execution.id] = execution
        stored = runner_pb2.Execution()
        stored.CopyFrom(record)
        self._writer.put(stream, NewExecution(stored, fingerprint, execution.request), request.ByteSize())
        return execution

    def _begin(self, execution: Execution, job: Job) -> None:
        turn = self._turns[execution.id] = self._admission.apply(job.request.session_id, execution.stream.publish)
        supervision = self._supervise(execution, turn, self._perform(execution, job, turn), current_span_context())
        task = self._tasks.create_task(supervision, name=f"supervise-{execution.id}")
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _perform(self, execution: Execution, job: Job, turn: Turn) -> str:
        await turn.come()
        if job.request.session_id and not execution.has_begun:
            await self._end_interrupted(job.request.session_id, execution)
        return await self._work.perform(execution, job, on_begin=lambda: self._mind_absence(execution))

    async def _end_interrupted(self, session_id: str, newcomer: Execution) -> None:
        """Ends what was interrupted in a session that now goes on without it, also what came back too late."""
        end = InterruptedEnd("it was interrupted, and its session has gone on with another execution")
        for execution in self._known.values():
            is_other = execution is not newcomer and execution.record.session_id == session_id
            if is_other and execution.has_begun and execution.is_at_work:
                execution.end(end)
        for record in await self._interrupted(session_id):
            execution = await self._find(record.execution_id)
            if execution.state == event_pb2.STATE_INTERRUPTED and execution.has_begun:
                execution.finish(end)

    async def _interrupted(self, session_id: str = "") -> Sequence[runner_pb2.Execution]:
        page = await self._log.list_executions(
            limit=_RESUMED_AT_MOST, before_key=0, states=[event_pb2.STATE_INTERRUPTED], session_id=session_id
        )
        return page.executions

    async def _supervise(
        self, execution: Execution, turn: Turn, work: Coroutine[Any, Any, str], caller: SpanContext
    ) -> None:
        record = execution.record
        with (
            execution_span(execution.id, record.session_id, agent_name=record.agent_name, caller=caller) as span,
            redact_with(execution.redactor.text),
        ):
            with turn:
                await execution.perform(work)
            del self._turns[execution.id]
            if record.HasField("error"):
                record_failure(span, record.error.code)
            await execution.stream.flush()
            # Not before the end is in the log: killed in between, it would be done all over again.
            if execution.stream.finished:
                await self._work.forget(execution)
            logger.info("execution_ended state=%s", event_pb2.State.Name(execution.state))
        self._forget_if_idle(execution)

    def _fingerprint(self, request: runner_pb2.ExecuteAgentRequest) -> bytes:
        """Hashes what makes a request the same one: all of it but how it wants to be watched."""
        same = runner_pb2.ExecuteAgentRequest()
        same.CopyFrom(request)
        same.ClearField("after_sequence")
        same.ClearField("disconnect_policy")
        data = same.SerializeToString(deterministic=True)
        return hashlib.blake2b(data, key=self._log.fingerprint_key, digest_size=32).digest()

    async def _find(self, execution_id: str) -> Execution:
        execution = await self._lookup(execution_id)
        if execution is None:
            raise NotFoundError(f"execution {execution_id} is not in the log; it never was, or it was pruned")
        return execution

    async def _lookup(self, execution_id: str) -> Execution | None:
        if execution_id not in self._known:
            stored = await self._log.get(execution_id)
            if stored is None:
                return None
            if execution_id not in self._known:
                self._known[execution_id] = self._at_rest(stored)
        return self._known[execution_id]

    def _at_rest(self, stored: StoredExecution) -> Execution:
        record = stored.execution
        stream = EventStream(
            record.execution_id,
            self._writer,
            self._log,
            last_sequence=record.last_sequence,
            finished=record.state in FINAL_STATES,
        )
        return Execution(record, stored.fingerprint, stream, stored.request)

    @asynccontextmanager
    async def _watching(self, execution: Execution, after_sequence: int) -> AsyncIterator[EventStream]:
        execution.watchers += 1
        self._watchers += 1
        try:
            if after_sequence > execution.stream.committed:
                raise SequenceOutOfRangeError(
                    f"after_sequence is {after_sequence}, but the newest event is {execution.stream.committed}"
                )
            yield execution.stream
        finally:
            execution.watchers -= 1
            self._watchers -= 1
            self._forget_if_idle(execution)

    def _mind_absence(self, execution: Execution) -> None:
        """Cancels an execution that nobody calls any more, unless a caller comes back within the grace."""
        if self._is_abandoned(execution):
            loop = asyncio.get_running_loop()
            loop.call_later(self._settings.disconnect_grace, self._cancel_if_abandoned, execution)

    def _cancel_if_abandoned(self, execution: Execution) -> None:
        if self._is_abandoned(execution):
            execution.end(CancelledEnd("the caller left and did not come back"))

    def _is_abandoned(self, execution: Execution) -> bool:
        return (
            execution.callers == 0
            and execution.state == event_pb2.STATE_RUNNING
            and execution.policy != runner_pb2.DISCONNECT_POLICY_DETACH
        )

    def _forget_if_idle(self, execution: Execution) -> None:
        """Leaves to the log alone what neither runs nor is watched, as soon as the log has it all."""
        if execution.watchers or execution.is_at_work:
            return
        if execution.stream.committed == execution.stream.last_sequence:
            self._known.pop(execution.id, None)


def _is_whole(request: runner_pb2.ExecuteAgentRequest | None) -> bool:
    return request is not None and request.HasField("agent")


def _reference(request: runner_pb2.ExecuteAgentRequest, work: Work) -> runner_pb2.ExecuteAgentRequest:
    """Returns what may be stored of a request whose secrets can be asked for again, by its id."""
    return runner_pb2.ExecuteAgentRequest(
        execution_id=request.execution_id,
        message=work.redactor(request).text(request.message),
        limits=request.limits if request.HasField("limits") else None,
        labels=request.labels,
    )


def _kept(
    request: runner_pb2.ExecuteAgentRequest, reference: runner_pb2.ExecuteAgentRequest | None
) -> runner_pb2.ExecuteAgentRequest | None:
    """Returns what is stored of a request: all of it, or its reference if there are secrets in it or much of it."""
    if reference and request.ByteSize() > _LONGEST_KEPT:
        return reference
    return _without_secrets(request) or reference


def _without_secrets(request: runner_pb2.ExecuteAgentRequest) -> runner_pb2.ExecuteAgentRequest | None:
    """Returns what may be stored of a request; None when it would not be enough to go on."""
    if any(entry.is_secret for entry in request.environment.values()):
        return None
    kept = runner_pb2.ExecuteAgentRequest()
    kept.CopyFrom(request)
    return kept


@asynccontextmanager
async def running_executions(
    settings: Settings,
    log: EventLog,
    writer: LogWriter,
    work: Work,
    *,
    readiness: Readiness,
    daemon: "Daemon | None" = None,
) -> AsyncIterator[Executions]:
    """Holds the executions of this process; whatever still runs when the context ends is left INTERRUPTED."""
    async with asyncio.TaskGroup() as tasks:
        executions = Executions(settings, log, writer, work, readiness=readiness, tasks=tasks, daemon=daemon)
        clearing = [
            tasks.create_task(executions.prune_forever(), name="log-pruner"),
            tasks.create_task(executions.forget_ended_forever(), name="forgetting"),
        ]
        try:
            with metrics.observed(executions.readings()):
                yield executions
        finally:
            for each in clearing:
                each.cancel()
            await executions.interrupt_all()
