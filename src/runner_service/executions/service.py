"""All executions of this process: called, watched and cancelled by id.

An execution belongs to the service, not to a call: callers come and go, and only their absence can matter to it.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from runner_service.errors import CallError, ExecutionEnd, UnavailableError
from runner_service.events.stream import EventStream
from runner_service.events.writer import LogWriter
from runner_service.executions import stored_request
from runner_service.executions.lifecycle import Lifecycle
from runner_service.executions.readiness import Readiness
from runner_service.executions.registry import Registry
from runner_service.executions.runner import Work
from runner_service.executions.starting import Starting
from runner_service.settings import Settings
from runner_service.storage.event_log import EventLog, LogError
from runner_service.telemetry import metrics
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

if TYPE_CHECKING:
    from runner_service.stigmer.daemon import Daemon

logger = logging.getLogger(__name__)

_CLEAR_EVERY = 60.0


class Executions:
    """What callers can do with executions. Construct it with `running_executions`."""

    def __init__(
        self, registry: Registry, lifecycle: Lifecycle, starting: Starting, *, tasks: asyncio.TaskGroup
    ) -> None:
        self._registry = registry
        self._lifecycle = lifecycle
        self._starting = starting
        self._tasks = tasks
        self._resuming: asyncio.Task[None] | None = None

    @property
    def are_busy(self) -> bool:
        """True while something runs or somebody watches."""
        return self._lifecycle.is_busy or self.watchers > 0

    @property
    def watchers(self) -> int:
        """How many callers look on."""
        return self._registry.watchers

    @asynccontextmanager
    async def called(self, request: runner_pb2.ExecuteAgentRequest) -> AsyncIterator[EventStream]:
        """Starts the execution of `request`, or finds it, and counts the caller until the context ends.

        Raises:
            CallError: NOT_FOUND, ALREADY_EXISTS, OUT_OF_RANGE, FAILED_PRECONDITION, RESOURCE_EXHAUSTED or
                UNAVAILABLE, as the contract of ExecuteAgent says.
        """
        execution = await self._starting.start_or_find(request)
        if request.disconnect_policy:
            execution.policy = request.disconnect_policy
        execution.callers += 1
        try:
            with self._registry.watching(execution, request.after_sequence) as stream:
                yield stream
        finally:
            execution.callers -= 1
            self._lifecycle.mind_absence(execution)

    @asynccontextmanager
    async def watched(self, execution_id: str, after_sequence: int) -> AsyncIterator[EventStream]:
        """Finds an execution to look on until the context ends. Raises NotFoundError, SequenceOutOfRangeError."""
        with self._registry.watching(await self._registry.find(execution_id), after_sequence) as stream:
            yield stream

    @asynccontextmanager
    async def reported(self, execution_id: str) -> AsyncIterator[EventStream]:
        """Finds an execution to report it, which is not counted as watching. Raises NotFoundError."""
        with self._registry.held(await self._registry.find(execution_id)) as stream:
            yield stream

    async def cancel(self, execution_id: str, reason: str) -> "event_pb2.State.ValueType":
        """Ends an execution and says where it stood. Raises NotFoundError."""
        execution = await self._registry.find(execution_id)
        found = execution.state
        self._lifecycle.cancel(execution, reason)
        return found

    async def drain(self, patience: float) -> None:
        """Lets executions finish for `patience` seconds, then leaves the rest INTERRUPTED and ends every stream."""
        await self._lifecycle.drain(patience)
        await self.interrupt_all()

    async def interrupt_all(self) -> None:
        """Stops what runs and what waits, to be continued by a later process, and ends every stream."""
        if self._resuming:
            self._resuming.cancel()
        await self._lifecycle.interrupt_all()

    async def resume_interrupted(self) -> None:
        """Goes on with every interrupted execution that had no secrets, the oldest first; nobody leaving ends them.

        Those whose secrets the Stigmer daemon has follow when it answers.
        """
        by_id: list[str] = []
        for execution in reversed(await self._registry.interrupted()):
            if stored_request.is_reference(execution.request):
                by_id.append(execution.id)
            elif error := await self._resume(execution.id):
                logger.warning("resume_put_off execution=%s reason=%s", execution.id, error)
        if by_id:
            self._resuming = self._tasks.create_task(self._resume_by_id(by_id), name="resume-by-id")

    async def _resume_by_id(self, execution_ids: Sequence[str]) -> None:
        for execution_id in execution_ids:
            while error := await self._resume(execution_id):  # noqa: ASYNC110  # nothing tells when it is possible
                await asyncio.sleep(error.retry_delay)

    async def _resume(self, execution_id: str) -> UnavailableError | None:
        """Goes on with an execution if that is possible; returns why it is not now, but may be later."""
        try:
            await self._starting.resume(execution_id)
        except UnavailableError as error:
            return error
        except CallError as error:
            logger.warning("resume_refused execution=%s reason=%s", execution_id, error)
        return None


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
        registry = Registry(log, writer)
        lifecycle = Lifecycle(settings, registry, work, tasks=tasks)
        starting = Starting(
            log, writer, work, registry=registry, lifecycle=lifecycle, readiness=readiness, daemon=daemon
        )
        executions = Executions(registry, lifecycle, starting, tasks=tasks)
        readings = {**lifecycle.readings(), metrics.WATCHERS: lambda: executions.watchers}
        clearing = [
            tasks.create_task(_prune_forever(settings, log, registry), name="log-pruner"),
            tasks.create_task(_forget_ended_forever(work, registry), name="forgetting"),
        ]
        try:
            with metrics.gauges_observed(readings):
                yield executions
        finally:
            for each in clearing:
                each.cancel()
            await executions.interrupt_all()


async def _prune_forever(settings: Settings, log: EventLog, registry: Registry) -> None:
    """Forgets old executions, now and every minute."""
    while True:
        try:
            forgotten = await log.prune(max_age=settings.log_max_age, max_bytes=settings.log_max_bytes)
            logger.debug("log_pruned executions=%d", forgotten)
        except LogError as error:
            logger.warning("log_prune_failed error=%s", error)
        for execution in registry.known():
            registry.forget_if_idle(execution)
        await asyncio.sleep(_CLEAR_EVERY)


async def _forget_ended_forever(work: Work, registry: Registry) -> None:
    """Clears up after executions that ended while nobody was there to do it, now and every minute."""
    while True:
        try:
            await work.forget_ended(registry.is_at_work)
        except (LogError, ExecutionEnd) as error:
            logger.warning("forgetting_failed error=%s", error)
        await asyncio.sleep(_CLEAR_EVERY)
