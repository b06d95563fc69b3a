"""The registry of executions: started or found by id, run by tasks of its own, watched by any number of callers.

An execution belongs to the service, not to a call: callers come and go, and only their absence can matter to it.
"""

import asyncio
import hashlib
import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from google.protobuf.duration_pb2 import Duration
from opentelemetry.trace import SpanContext

from runner_service.agent_run import AgentLoop, AgentRun
from runner_service.errors import (
    AlreadyExistsError,
    CancelledEnd,
    InterruptedEnd,
    NotFoundError,
    SandboxEnd,
    SequenceOutOfRangeError,
    TimedOutEnd,
    UnavailableError,
    UnimplementedError,
)
from runner_service.eventlog import EventLog, NewExecution
from runner_service.events import EventStream, LogWriter
from runner_service.execution import Execution
from runner_service.executors import Executor, SandboxError, SandboxSpec
from runner_service.health import Readiness
from runner_service.models import ModelChoice, resolve
from runner_service.redaction import Redactor
from runner_service.sessions import SessionTurns
from runner_service.settings import Settings
from runner_service.telemetry import current_span_context, execution_span, record_failure, redact_with
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

logger = logging.getLogger(__name__)

_PRUNE_EVERY = 60.0
_STOPPING = UnavailableError("the service is stopping; attach again to see how this execution goes on")


class Executions:
    """All executions of this process. Construct it with `running_executions`."""

    def __init__(
        self,
        settings: Settings,
        log: EventLog,
        writer: LogWriter,
        *,
        mode: str,
        executor: Executor | None,
        agent_loop: Callable[[], Awaitable[AgentLoop]],
        readiness: Readiness,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._settings = settings
        self._log = log
        self._writer = writer
        self._mode = mode
        self._executor = executor
        self._agent_loop = agent_loop
        self._readiness = readiness
        self._tasks = tasks
        self._known: dict[str, Execution] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._turns = SessionTurns()
        self._one_start_at_a_time = asyncio.Lock()

    @property
    def are_busy(self) -> bool:
        """True while something runs or somebody watches."""
        return bool(self._running) or any(execution.watchers for execution in self._known.values())

    @asynccontextmanager
    async def called(self, request: runner_pb2.ExecuteAgentRequest) -> AsyncIterator[EventStream]:
        """Starts the execution of `request`, or finds it, and counts the caller until the context ends.

        Raises:
            CallError: NOT_FOUND, ALREADY_EXISTS, OUT_OF_RANGE, FAILED_PRECONDITION, UNAVAILABLE or UNIMPLEMENTED, as
                the contract of ExecuteAgent says.
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
        """Lets executions finish for `patience` seconds, then leaves the rest INTERRUPTED and ends every stream."""
        if self._running:
            logger.info("drain_waits executions=%d seconds=%g", len(self._running), patience)
            await asyncio.wait(self._running, timeout=patience)
        await self.interrupt_all()

    async def interrupt_all(self) -> None:
        """Stops what runs, to be continued by a later process, and ends every stream."""
        for execution in list(self._known.values()):
            if execution.is_at_work:
                execution.interrupt()
        if self._running:
            await asyncio.wait(self._running)
        for execution in self._known.values():
            execution.close(_STOPPING)

    async def prune_forever(self) -> None:
        """Forgets old executions, now and every minute."""
        while True:
            forgotten = await self._log.prune(
                max_age=self._settings.log_max_age, max_bytes=self._settings.log_max_bytes
            )
            if forgotten:
                logger.info("log_pruned executions=%d", forgotten)
            for execution in list(self._known.values()):
                self._forget_if_idle(execution)
            await asyncio.sleep(_PRUNE_EVERY)

    async def _start_or_find(self, request: runner_pb2.ExecuteAgentRequest) -> Execution:
        fingerprint = self._fingerprint(request)
        async with self._one_start_at_a_time:
            execution = await self._lookup(request.execution_id) if request.execution_id else None
            if execution is None:
                return self._start(request, fingerprint)
        if request.HasField("agent") and execution.fingerprint != fingerprint:
            raise AlreadyExistsError(
                f"execution {execution.id} exists with another request; choose another execution_id, "
                "or leave out agent to attach to the one that exists"
            )
        if execution.state == event_pb2.STATE_INTERRUPTED:
            execution.finish(
                InterruptedEnd("the service stopped while this execution ran; start it again under a new id")
            )
        return execution

    def _start(self, request: runner_pb2.ExecuteAgentRequest, fingerprint: bytes) -> Execution:
        if not request.HasField("agent"):
            raise NotFoundError(f"execution {request.execution_id} is not in the log; send the agent to start it")
        self._readiness.require_serving()
        if self._writer.broken:
            raise UnavailableError(self._writer.broken.message, retry_delay=5.0)
        if self._executor is None:
            raise UnimplementedError("MODE=cloud cannot run agents yet; set MODE=local to run them on this machine")
        model = resolve(request.agent.model, self._settings)
        execution = self._accept(request, fingerprint)
        work = self._work(execution, request, model, self._executor)
        task = self._tasks.create_task(
            self._supervise(execution, work, current_span_context()), name=f"supervise-{execution.id}"
        )
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return execution

    def _accept(self, request: runner_pb2.ExecuteAgentRequest, fingerprint: bytes) -> Execution:
        record = runner_pb2.Execution(
            execution_id=request.execution_id or uuid.uuid4().hex,
            session_id=request.session_id,
            state=event_pb2.STATE_PENDING,
            agent_name=request.agent.name,
            labels=request.labels,
        )
        record.create_time.GetCurrentTime()
        stream = EventStream(record.execution_id, self._writer, self._log)
        execution = Execution(record, fingerprint, stream)
        execution.redactor = self._redactor(request)
        self._known[execution.id] = execution
        stored = runner_pb2.Execution()
        stored.CopyFrom(record)
        self._writer.put(stream, NewExecution(stored, fingerprint), stored.ByteSize())
        return execution

    async def _supervise(self, execution: Execution, work: Coroutine[Any, Any, str], caller: SpanContext) -> None:
        record = execution.record
        name = execution.redactor.text(record.agent_name)
        with (
            execution_span(execution.id, record.session_id, agent_name=name, caller=caller) as span,
            redact_with(execution.redactor.text),
        ):
            await execution.perform(work)
            if record.HasField("error"):
                record_failure(span, record.error.code)
            if execution.run and execution.is_final:
                await (await self._agent_loop()).forget(execution.run)
            await execution.stream.flush()
            logger.info("execution_ended state=%s", event_pb2.State.Name(execution.state))
        self._forget_if_idle(execution)

    async def _work(
        self, execution: Execution, request: runner_pb2.ExecuteAgentRequest, model: ModelChoice, executor: Executor
    ) -> str:
        limits = self._limits(request.limits)
        seconds = limits.timeout.ToNanoseconds() / 1e9
        async with self._turns.turn(request.session_id, on_wait=lambda: self._publish_queued(execution)):
            loop = await self._agent_loop()
            try:
                async with (
                    asyncio.timeout(seconds) as clock,
                    executor.open(_sandbox_spec(execution, request)) as sandbox,
                ):
                    execution.begin(self._started(executor, sandbox.root, model))
                    self._mind_absence(execution)
                    execution.run = AgentRun(
                        execution_id=execution.id,
                        session_id=request.session_id,
                        agent=request.agent,
                        message=request.message,
                        limits=limits,
                        model=model,
                        sandbox=sandbox,
                        events=execution.stream,
                        redactor=execution.redactor,
                        usage=execution.usage,
                    )
                    return await loop.run(execution.run)
            except TimeoutError:
                if clock.expired():
                    raise TimedOutEnd(f"limits.timeout = {seconds:g} s was reached") from None
                raise
            except SandboxError as error:
                raise SandboxEnd(str(error)) from error

    def _started(self, executor: Executor, root: str, model: ModelChoice) -> event_pb2.Started:
        return event_pb2.Started(
            mode=self._mode,
            sandbox=event_pb2.SandboxInfo(
                type=executor.sandbox_type, root=root, process_control=executor.process_control
            ),
            model=event_pb2.ModelInfo(provider=model.provider, name=model.name),
        )

    def _publish_queued(self, execution: Execution) -> None:
        execution.stream.publish(
            event_pb2.Notice(
                level=event_pb2.Notice.LEVEL_INFO,
                code="SESSION_BUSY",
                text=f"waits for another execution of session {execution.record.session_id} to end",
            )
        )

    def _limits(self, asked: runner_pb2.ExecutionLimits) -> runner_pb2.ExecutionLimits:
        settings = self._settings
        limits = runner_pb2.ExecutionLimits(
            timeout=_duration(settings.default_timeout),
            max_model_calls=settings.default_max_model_calls,
            max_tool_calls=settings.default_max_tool_calls,
            max_total_tokens=settings.default_max_total_tokens,
            command_timeout=_duration(settings.default_command_timeout),
            max_output_bytes=settings.default_max_output_bytes,
        )
        limits.MergeFrom(asked)
        if asked.HasField("timeout"):
            limits.timeout.CopyFrom(asked.timeout)
        if asked.HasField("command_timeout"):
            limits.command_timeout.CopyFrom(asked.command_timeout)
        return limits

    def _redactor(self, request: runner_pb2.ExecuteAgentRequest) -> Redactor:
        secrets = [entry.value for entry in request.environment.values() if entry.is_secret]
        return Redactor([*self._settings.secrets(), *secrets])

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
                self._known[execution_id] = self._at_rest(stored.execution, stored.fingerprint)
        return self._known[execution_id]

    def _at_rest(self, record: runner_pb2.Execution, fingerprint: bytes) -> Execution:
        stream = EventStream(record.execution_id, self._writer, self._log, last_sequence=record.last_sequence)
        execution = Execution(record, fingerprint, stream)
        stream.finished = execution.is_final
        return execution

    @asynccontextmanager
    async def _watching(self, execution: Execution, after_sequence: int) -> AsyncIterator[EventStream]:
        execution.watchers += 1
        try:
            if after_sequence > execution.stream.committed:
                raise SequenceOutOfRangeError(
                    f"after_sequence is {after_sequence}, but the newest event is {execution.stream.committed}"
                )
            yield execution.stream
        finally:
            execution.watchers -= 1
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


def _sandbox_spec(execution: Execution, request: runner_pb2.ExecuteAgentRequest) -> SandboxSpec:
    return SandboxSpec(
        execution_id=execution.id,
        session_id=request.session_id,
        environment={name: entry.value for name, entry in request.environment.items()},
    )


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration


@asynccontextmanager
async def running_executions(
    settings: Settings,
    log: EventLog,
    writer: LogWriter,
    *,
    mode: str,
    executor: Executor | None,
    agent_loop: Callable[[], Awaitable[AgentLoop]],
    readiness: Readiness,
) -> AsyncIterator[Executions]:
    """Holds the executions of this process; whatever still runs when the context ends is left INTERRUPTED.

    `executor` is None where nothing can run agents. `agent_loop` is awaited by each execution before it starts, so that
    loading it may take its time.
    """
    async with asyncio.TaskGroup() as tasks:
        executions = Executions(
            settings, log, writer, mode=mode, executor=executor, agent_loop=agent_loop, readiness=readiness, tasks=tasks
        )
        pruner = tasks.create_task(executions.prune_forever(), name="log-pruner")
        try:
            yield executions
        finally:
            pruner.cancel()
            await executions.interrupt_all()
