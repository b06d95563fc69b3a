"""The life of an execution in this process: it is queued, runs, and ends, or is left to a later process.

`start` and `resume` put it in the queue with a task of its own. `end`, `cancel_if_abandoned`, `drain` and
`interrupt_all` stop it from outside.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping

from opentelemetry.trace import SpanContext

from runner_service import states
from runner_service.errors import CancelledEnd, ExecutionEnd, InterruptedEnd, UnavailableError
from runner_service.executions.execution import Execution
from runner_service.executions.ownership import ExecutionOwnership
from runner_service.executions.parking import Parking
from runner_service.executions.registry import Registry
from runner_service.executions.runner import PreparedRun
from runner_service.executors.protocol import Executor, SandboxError, SandboxSpec
from runner_service.identity import Caller, OwnerKey, current_caller
from runner_service.settings import Settings
from runner_service.storage.ownership import Claim, Letter, owner_token
from runner_service.storage.queue import Queue, Slot
from runner_service.telemetry import current_span_context, execution_span, record_failure, redact_with
from runner_service.v1 import agent_runner_pb2 as runner_pb2

logger = logging.getLogger(__name__)

_STOPPING = UnavailableError("the service is stopping; attach again to see how this execution goes on")


class Lifecycle:
    """Runs executions, each in a task of its own. Belongs to the event loop."""

    def __init__(
        self,
        settings: Settings,
        registry: Registry,
        ownership: ExecutionOwnership,
        queue: Queue,
        executor: Executor,
        *,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._settings = settings
        self._registry = registry
        self._ownership = ownership
        self._queue = queue
        self._executor = executor
        self._task_group = tasks
        self._slots: dict[str, Slot] = {}
        self.parking = Parking()
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
        return {"running": self._queue.running, "queued": self._queue.queued, "waiting": len(self.parking)}

    def start(
        self,
        run: PreparedRun,
        claim: Claim,
        *,
        fingerprint: bytes,
        stored_request: runner_pb2.ExecuteAgentRequest | None,
        values: Mapping[str, bytes] = {},
    ) -> Execution:
        """Creates an execution and puts it in the queue, which has room for it."""
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

    def reserve(self, execution: Execution) -> None:
        """Keeps the place of an execution that an earlier process has parked."""
        self.parking.add(execution.id, self._queue.reserve(execution))

    def _enqueue(self, execution: Execution, run: PreparedRun) -> None:
        execution.is_queued = True
        slot = self._slots[execution.id] = self.parking.unpark(execution.id) or self._queue.place(execution)
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
                    self.parking.park(execution, slot, run)
            if self._slots.get(execution.id) is slot:  # else this replica has claimed it anew
                del self._slots[execution.id]
            if execution.is_passed_on:
                await self._ownership.pass_on(execution)
                self._registry.drop_if_idle(execution)
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
            await self._ownership.release(execution, hands_over=True)
            logger.info("execution_ended state=%s", states.state_name(execution.state))
        if execution.is_waiting and self.on_parked:
            await self.on_parked(execution)
        self._registry.drop_if_idle(execution)

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
            if execution.has_started and await self._ownership.own(execution) and execution.can_be_resumed:
                execution.finish(end)
                await self._ownership.release(execution)

    def end(self, execution: Execution, end: ExecutionEnd) -> None:
        """Ends an execution in any state; one that has ended stays as it is."""
        if execution.is_active and execution.id in self._slots:
            execution.stop(end)
        elif not execution.is_final:
            execution.finish(end)
            self.parking.release(execution.id)
            release = self._task_group.create_task(self._release_ended(execution), name=f"release-{execution.id}")
            self._releases.add(release)
            release.add_done_callback(self._releases.discard)
        self._registry.drop_if_idle(execution)

    async def _release_ended(self, execution: Execution) -> None:
        """Gives up what an execution had that has ended without a task."""
        await execution.flush()
        self._queue.forget(execution.id)
        await self._ownership.release(execution)
        await self._release_sandbox(execution)

    async def _release_sandbox(self, execution: Execution) -> None:
        """Gives up what earlier runs of an ended execution may have left: its sandbox, or commands in its session's."""
        if not execution.has_started or execution.stream.is_fenced:  # a later owner uses it
            return
        spec = SandboxSpec(execution.id, execution.session, owner_token=execution.owner_token)
        try:
            await self._executor.release_ended(spec)
        except SandboxError as error:
            logger.warning("sandbox_not_released execution=%s reason=%s", execution.id, error)

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


def _cancel_if_still_abandoned(execution: Execution) -> None:
    if execution.is_abandoned:
        execution.stop(CancelledEnd("the caller left and did not come back"))
