"""The life of an execution in this process: queue, run, end, and cancellation when its callers leave."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import NamedTuple

from opentelemetry.trace import SpanContext

from runner_service import states
from runner_service.errors import (
    CancelledEnd,
    ExecutionEnd,
    InterruptedEnd,
    NotFoundError,
    QueueFullError,
    QuotaExceededError,
    UnavailableError,
)
from runner_service.executions.execution import Execution
from runner_service.executions.registry import Registry
from runner_service.executions.runner import PreparedRun
from runner_service.executors.protocol import Executor, SandboxError, SandboxSpec
from runner_service.identity import Caller, OwnerKey, current_caller
from runner_service.settings import Settings
from runner_service.storage.event_log import EventLog, LogError
from runner_service.storage.ownership import Claim, Letter, Ownership, Replicas, owner_token
from runner_service.storage.queue import Queue, Slot
from runner_service.storage.shared_queue import Entrant
from runner_service.telemetry import current_span_context, execution_span, metrics, record_failure, redact_with
from runner_service.v1 import agent_runner_pb2 as runner_pb2

logger = logging.getLogger(__name__)

_MAX_KEPT_RUNS = 1000
_MAX_KEPT_REQUEST_BYTES = 256 * 1024

_STOPPING = UnavailableError("the service is stopping; attach again to see how this execution goes on")


class Parked(NamedTuple):
    """An execution that waits for approvals: its place, and its run if its request is not in the log."""

    slot: Slot
    run: PreparedRun | None


class Lifecycle:
    """Runs executions, each in a task of its own. Belongs to the event loop."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        log: EventLog,
        ownership: Ownership,
        replicas: Replicas | None,
        queue: Queue,
        executor: Executor,
        *,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._log = log
        self._ownership = ownership
        self._replicas = replicas
        self._executor = executor
        self._task_group = tasks
        self._queue = queue
        self._slots: dict[str, Slot] = {}
        self._parked: dict[str, Parked] = {}
        self._running_tasks: set[asyncio.Task[None]] = set()
        self._releases: set[asyncio.Task[None]] = set()
        self.ended = 0
        """How many executions have ended here since the start."""
        self.on_parked: Callable[[Execution], Awaitable[None]] | None = None
        """Called when an execution is WAITING: a decision that came while it was being parked resumed nothing."""

    @property
    def is_busy(self) -> bool:
        """True while an execution runs or is queued."""
        return bool(self._running_tasks)

    def counts(self) -> dict[str, int]:
        """Returns how many executions are `running`, `queued` and `waiting` here."""
        return {"running": self._queue.running, "queued": self._queue.queued, "waiting": len(self._parked)}

    def gauges(self) -> dict[metrics.Gauge, metrics.Reading]:
        """Returns the gauges of how many executions there are, and may be."""
        settings = self._settings
        limits = {"running": settings.max_concurrent_executions, "queued": settings.max_queued_executions}
        return {
            metrics.EXECUTIONS: self.counts,
            metrics.EXECUTIONS_LIMIT: lambda: limits,
        }

    async def require_room(self, session_id: str, tenant: str) -> None:
        """Checks that one more execution may run or wait. Raises QueueFullError, QuotaExceededError."""
        await self._queue.require_room(session_id, tenant)

    async def join_queue(
        self, session_id: str, claim: Claim, stored_request: runner_pb2.ExecuteAgentRequest | None
    ) -> None:
        """Does what has to be done before `start`.

        Raises QueueFullError, QuotaExceededError, LogError; then the claim is released.
        """
        is_pinned = not self._registry.is_portable(stored_request)
        try:
            await self._queue.join(Entrant(claim.execution_id, session_id, claim.token, is_pinned))
        except (QueueFullError, QuotaExceededError):
            await self._ownership.release(claim.execution_id)
            raise

    def start(
        self,
        run: PreparedRun,
        claim: Claim,
        *,
        fingerprint: bytes,
        stored_request: runner_pb2.ExecuteAgentRequest | None,
        values: Mapping[str, bytes] = {},
    ) -> Execution:
        """Creates an execution and puts it in the queue, for which `require_room` was called."""
        execution = self._registry.create(
            run.request,
            run.redactor,
            claim=claim,
            fingerprint=fingerprint,
            stored_request=stored_request,
            values=values,
        )
        self._enqueue(execution, run)
        return execution

    def resume(self, execution: Execution, run: PreparedRun) -> None:
        """Puts an interrupted or waiting execution of this process in the queue again; there is always room."""
        execution.requeue(run.redactor)
        self._enqueue(execution, run)

    async def own(self, execution: Execution, *, anew: bool = False, token: int | None = None) -> bool:
        """Makes this process the owner of an execution that is not active; False if another one is. Raises LogError.

        `anew` and `token` are as of `Ownership.claim`.
        """
        if not execution.is_remote:
            return True
        claim = await self._ownership.claim(execution.id, anew=anew, token=token)
        if claim is None:
            return False
        stored = await self._log.get(execution.id)
        if stored is None:
            raise NotFoundError(f"execution {execution.id} was deleted")
        execution.take_over(claim.token, stored)
        return True

    async def own_to_end(self, execution: Execution) -> bool:
        """Makes this process the one that ends an execution, which leaves the queue; False if another one has it.

        Raises LogError.
        """
        if execution.is_final:
            return True
        if states.is_pending(execution.state) and (execution.is_remote or execution.is_queued):
            token = await self._queue.withdraw(execution.id)
            if token is not None:
                return await self.own(execution, token=token)
            if execution.is_queued:  # another process has taken it in this moment
                return False
        return await self.own(execution)

    @asynccontextmanager
    async def owning(self, execution: Execution) -> AsyncIterator[None]:
        """Makes this process the owner of an execution at rest, ended or not, for what is appended in the block.

        Raises:
            UnavailableError: another process is the owner.
            LogError: the log cannot be read.
        """
        if self._replicas is None:
            yield
            return
        execution.stream.is_remote = True  # what has ended is nobody's
        if not await self.own(execution):
            raise UnavailableError(f"execution {execution.name} is in use at another replica: call again")
        try:
            yield
        finally:
            await self.release(execution)

    def parked_run(self, execution_id: str) -> PreparedRun | None:
        """Returns the run of a waiting execution, if this process has accepted it and its request had secrets."""
        parked = self._parked.get(execution_id)
        return parked.run if parked else None

    def reserve(self, execution: Execution) -> None:
        """Keeps the place of an execution that an earlier process has parked."""
        slot = self._queue.reserve(execution)
        self._parked[execution.id] = Parked(slot, None)

    def interrupt_waiting(self, execution: Execution) -> None:
        """Leaves a waiting execution to whoever sends its request again."""
        execution.wait_for_caller()
        self._release_parked(execution)

    def end(self, execution: Execution, end: ExecutionEnd) -> None:
        """Ends an execution in any state; one that has ended stays as it is."""
        if execution.is_active and execution.id in self._slots:
            execution.stop(end)
        elif not execution.is_final:
            execution.finish(end)
            self._release_parked(execution)
            release = self._task_group.create_task(self._release_ended(execution), name=f"release-{execution.id}")
            self._releases.add(release)
            release.add_done_callback(self._releases.discard)
        self._registry.drop_if_idle(execution)

    def observe_callers(self, execution: Execution, letter: Letter) -> None:
        """Learns of callers at other replicas; when the last has left, the grace period begins."""
        if letter.disconnect_policy:
            execution.policy = runner_pb2.DisconnectPolicy.ValueType(letter.disconnect_policy)
        had_callers, execution.has_callers_elsewhere = execution.has_callers_elsewhere, letter.has_callers
        if had_callers and not letter.has_callers:
            self.cancel_if_abandoned(execution)

    def cancel_if_abandoned(self, execution: Execution) -> None:
        """Cancels an execution that nobody calls any more, unless a caller comes back within the grace period."""
        if execution.is_abandoned and not execution.is_remote:
            loop = asyncio.get_running_loop()
            loop.call_later(self._settings.disconnect_grace, _cancel_if_still_abandoned, execution)

    async def drain(self, timeout_seconds: float) -> None:
        """Lets executions finish for `timeout_seconds`.

        Queued ones stay in the queue of all replicas, or are left INTERRUPTED: their callers are to look elsewhere.
        """
        self._queue.close()
        for execution in self._registry.in_memory():
            slot = self._slots.get(execution.id)
            if slot and not slot.is_admitted:
                self._leave_to_others(execution)
                execution.end_streams(_STOPPING)
        if self._running_tasks:
            logger.info("drain_waits executions=%d seconds=%g", len(self._running_tasks), timeout_seconds)
            await asyncio.wait(self._running_tasks, timeout=timeout_seconds)

    async def interrupt_all(self) -> None:
        """Interrupts what runs and what is queued, to be resumed by a later process, and ends every stream."""
        self._queue.close()
        for release in self._releases:
            release.cancel()  # the sandboxes have an end of their own
        for execution in self._registry.in_memory():
            if execution.is_active and not execution.is_remote:
                self._leave_to_others(execution)
        if self._running_tasks:
            self._executor.skip_grace()  # the drain was their grace period
            await asyncio.wait(self._running_tasks)
        for execution in self._registry.in_memory():
            execution.end_streams(_STOPPING)
        self._registry.is_stopping = True
        self._registry.approval_changes.notify_all()

    def _leave_to_others(self, execution: Execution) -> None:
        """Stops an execution for another process to go on with."""
        slot = self._slots.get(execution.id)
        if slot and slot.outlives_process:
            execution.pass_on()
        else:
            execution.interrupt()

    def _enqueue(self, execution: Execution, run: PreparedRun) -> None:
        parked = self._parked.pop(execution.id, None)
        execution.is_queued = True
        slot = self._slots[execution.id] = parked.slot.unpark() if parked else self._queue.place(execution)
        live = self._live(execution, slot, run, current_span_context())
        task = self._task_group.create_task(live, name=f"lifecycle-{execution.id}")
        self._running_tasks.add(task)
        task.add_done_callback(self._running_tasks.discard)

    async def _live(self, execution: Execution, slot: Slot, run: PreparedRun, caller: SpanContext) -> None:
        record = execution.record
        if record.HasField("caller"):  # also of an execution that no call has resumed
            current_caller.set(Caller(record.caller.name, record.caller.home_tenant, record.caller.tenant))
        with (
            execution_span(
                execution.id,
                record.session_id,
                agent_name=record.agent_name,
                caller=caller,
                caller_name=record.caller.name,
            ) as span,
            redact_with(execution.redactor.text),
        ):
            owner_token.set(execution.stream.owner_token)
            with slot:
                await execution.run_to_end(self._run_when_admitted(execution, slot, run))
                if execution.is_waiting:
                    self._park(execution, slot, run)
            if self._slots.get(execution.id) is slot:  # else this replica has claimed it anew
                del self._slots[execution.id]
            if execution.is_passed_on:
                await self._follow_elsewhere(execution)
                return
            if record.HasField("error"):
                record_failure(span, record.error.code)
            await execution.stream.flush()
            # Not before the end is in the log: killed in between, all of it would be done again.
            if execution.stream.finished:
                self.ended += 1
                await run.delete_state(execution)
                if not execution.has_sandbox:  # cancelled before it went on with what another process has left
                    await self._release_sandbox(execution)
            await self.release(execution, hands_over=True)
            logger.info("execution_ended state=%s", states.state_name(execution.state))
        if execution.is_waiting and self.on_parked:
            await self.on_parked(execution)
        self._registry.drop_if_idle(execution)

    async def _follow_elsewhere(self, execution: Execution) -> None:
        """Gives up an execution that another replica has taken out of the queue; those who watch it here go on."""
        logger.info("execution_passed_on execution=%s", execution.id)
        try:
            if self._replicas and execution.callers:
                await self._replicas.attend([execution.id])
            await self._ownership.release(execution.id)
        except LogError as error:  # the new owner's claim has done it
            logger.warning("release_failed execution=%s error=%s", execution.id, error)
        self._registry.drop_if_idle(execution)

    async def release(self, execution: Execution, *, hands_over: bool = False) -> None:
        """Gives up an execution that does not run here any more; offers it to other replicas if it `hands_over`."""
        if execution.is_active or execution.stream.is_fenced:
            return
        execution.stream.is_remote = not execution.is_final
        try:
            await self._ownership.release(execution.id, floor=execution.claim_floor)
            if hands_over and execution.can_be_resumed and self._replicas:
                await self._replicas.hand_over([execution.id])
        except LogError as error:  # the end of the lease does it
            logger.warning("release_failed execution=%s error=%s", execution.id, error)

    def _park(self, execution: Execution, slot: Slot, run: PreparedRun) -> None:
        """Keeps the run of an execution whose request, for its secrets, is not in the log, while there is room."""
        slot.park()
        has_to_keep = execution.request is None and run.request.ByteSize() <= _MAX_KEPT_REQUEST_BYTES
        has_room = sum(each.run is not None for each in self._parked.values()) < _MAX_KEPT_RUNS
        self._parked[execution.id] = Parked(slot, run if has_to_keep and has_room else None)
        logger.info("execution_parked pending_approvals=%d", execution.record.pending_approvals)

    def _release_parked(self, execution: Execution) -> None:
        if parked := self._parked.pop(execution.id, None):
            parked.slot.release()

    async def _release_ended(self, execution: Execution) -> None:
        """Gives up what an execution had that has ended without a task."""
        await execution.flush()
        self._queue.forget(execution.id)
        await self.release(execution)
        await self._release_sandbox(execution)

    async def _release_sandbox(self, execution: Execution) -> None:
        """Gives up the sandbox that an earlier run of an ended execution may have left."""
        if not execution.has_started:
            return
        try:
            await self._executor.release_parked(SandboxSpec(execution.id, execution.record.session_id))
        except SandboxError as error:
            logger.warning("sandbox_not_released execution=%s reason=%s", execution.id, error)

    async def _run_when_admitted(self, execution: Execution, slot: Slot, run: PreparedRun) -> str:
        await slot.admitted()
        execution.is_queued = False
        if run.request.session_id and not execution.has_started:
            await self._end_superseded(execution.session, execution)
        return await run.run(execution, on_started=lambda: self.cancel_if_abandoned(execution))

    async def _end_superseded(self, session_id: OwnerKey, successor: Execution) -> None:
        """Ends what was interrupted in a session that now goes on without it, also what was resumed too late."""
        end = InterruptedEnd("it was interrupted, and its session has gone on with another execution")
        for execution in self._registry.in_memory():
            is_other = execution is not successor and execution.record.session_id == session_id
            if is_other and execution.has_started and execution.is_active and not execution.is_remote:
                execution.stop(end)
        for execution in await self._registry.interrupted(session_id):
            if execution.has_started and await self.own(execution) and execution.can_be_resumed:
                execution.finish(end)
                await self.release(execution)


def _cancel_if_still_abandoned(execution: Execution) -> None:
    if execution.is_abandoned:
        execution.stop(CancelledEnd("the caller left and did not come back"))
