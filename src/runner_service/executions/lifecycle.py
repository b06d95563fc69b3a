"""The life of an execution in this process: its turn, its work, its end, and what the absence of callers means."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any

from opentelemetry.trace import SpanContext

from runner_service.errors import CancelledEnd, InterruptedEnd, UnavailableError
from runner_service.executions.execution import Execution
from runner_service.executions.queue import Admission, Turn
from runner_service.executions.registry import Registry
from runner_service.executions.runner import Job, Work
from runner_service.settings import Settings
from runner_service.telemetry import current_span_context, execution_span, metrics, record_failure, redact_with
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

logger = logging.getLogger(__name__)

_STOPPING = UnavailableError("the service is stopping; attach again to see how this execution goes on")


class Lifecycle:
    """Lets executions live, each in a task of its own. Belongs to the event loop."""

    def __init__(self, settings: Settings, registry: Registry, work: Work, *, tasks: asyncio.TaskGroup) -> None:
        self._settings = settings
        self._registry = registry
        self._work = work
        self._tasks = tasks
        self._admission = Admission(at_once=settings.max_concurrent_executions, queued=settings.max_queued_executions)
        self._turns: dict[str, Turn] = {}
        self._lives: set[asyncio.Task[None]] = set()

    @property
    def is_busy(self) -> bool:
        """True while an execution runs or waits for its turn."""
        return bool(self._lives)

    def readings(self) -> dict[metrics.Gauge, metrics.Reading]:
        """Says how many there are, and may be."""
        admission, settings = self._admission, self._settings
        limits = {"running": settings.max_concurrent_executions, "queued": settings.max_queued_executions}
        return {
            metrics.EXECUTIONS: lambda: {"running": admission.at_work, "queued": admission.waiting},
            metrics.EXECUTIONS_LIMIT: lambda: limits,
        }

    def require_room(self, session_id: str) -> None:
        """Lets one more execution begin. Raises QueueFullError."""
        self._admission.require_room(session_id)

    def begin(self, execution: Execution, job: Job) -> None:
        """Puts an execution in line for its work, and sees to it from there to its end."""
        turn = self._turns[execution.id] = self._admission.apply(job.request.session_id, execution.stream.publish)
        life = self._live(execution, turn, self._perform(execution, job, turn), current_span_context())
        task = self._tasks.create_task(life, name=f"life-{execution.id}")
        self._lives.add(task)
        task.add_done_callback(self._lives.discard)

    def cancel(self, execution: Execution, reason: str) -> None:
        """Ends an execution wherever it stands; one that has ended stays as it is."""
        end = CancelledEnd(f"cancelled: {reason}" if reason else "cancelled by CancelExecution")
        if execution.is_at_work:
            execution.end(end)
        elif not execution.is_final:
            execution.finish(end)
        self._registry.forget_if_idle(execution)

    def mind_absence(self, execution: Execution) -> None:
        """Cancels an execution that nobody calls any more, unless a caller comes back within the grace."""
        if _is_abandoned(execution):
            loop = asyncio.get_running_loop()
            loop.call_later(self._settings.disconnect_grace, _cancel_if_abandoned, execution)

    async def drain(self, patience: float) -> None:
        """Lets executions finish for `patience` seconds.

        Those that wait for their turn are left INTERRUPTED at once: their callers are to look elsewhere.
        """
        self._admission.close()
        for execution in self._registry.known():
            turn = self._turns.get(execution.id)
            if turn and not turn.has_come:
                execution.interrupt()
                execution.close(_STOPPING)
        if self._lives:
            logger.info("drain_waits executions=%d seconds=%g", len(self._lives), patience)
            await asyncio.wait(self._lives, timeout=patience)

    async def interrupt_all(self) -> None:
        """Stops what runs and what waits, to be continued by a later process, and ends every stream."""
        self._admission.close()
        for execution in self._registry.known():
            if execution.is_at_work:
                execution.interrupt()
        if self._lives:
            await asyncio.wait(self._lives)
        for execution in self._registry.known():
            execution.close(_STOPPING)

    async def _live(
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
        self._registry.forget_if_idle(execution)

    async def _perform(self, execution: Execution, job: Job, turn: Turn) -> str:
        await turn.come()
        if job.request.session_id and not execution.has_begun:
            await self._end_interrupted(job.request.session_id, execution)
        return await self._work.perform(execution, job, on_begin=lambda: self.mind_absence(execution))

    async def _end_interrupted(self, session_id: str, newcomer: Execution) -> None:
        """Ends what was interrupted in a session that now goes on without it, also what came back too late."""
        end = InterruptedEnd("it was interrupted, and its session has gone on with another execution")
        for execution in self._registry.known():
            is_other = execution is not newcomer and execution.record.session_id == session_id
            if is_other and execution.has_begun and execution.is_at_work:
                execution.end(end)
        for execution in await self._registry.interrupted(session_id):
            if execution.has_begun:
                execution.finish(end)


def _cancel_if_abandoned(execution: Execution) -> None:
    if _is_abandoned(execution):
        execution.end(CancelledEnd("the caller left and did not come back"))


def _is_abandoned(execution: Execution) -> bool:
    return (
        execution.callers == 0
        and execution.state == event_pb2.STATE_RUNNING
        and execution.policy != runner_pb2.DISCONNECT_POLICY_DETACH
    )
