"""One execution: its state, its callers, its task and its one end."""

import asyncio
import logging
import secrets
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from runner_service import states
from runner_service.agent.interface import ParkedError
from runner_service.approvals.requests import Approvals
from runner_service.errors import CallError, ExecutionEnd, SandboxEnd
from runner_service.events.stream import EventStream
from runner_service.identity import OwnerKey, bare_id
from runner_service.redaction import Redactor
from runner_service.storage.event_log import StoredExecution
from runner_service.telemetry import metrics
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

if TYPE_CHECKING:
    from runner_service.agent.interface import AgentRun

logger = logging.getLogger(__name__)

_MAX_ERROR_CHARACTERS = 8 * 1024


class Execution:
    """An execution that is active, or that somebody watches. Belongs to the event loop.

    `record` is what the log stores of it, `fingerprint` the keyed hash of its request, `request` what may be stored
    of the request (None when it had secrets).
    """

    def __init__(
        self,
        record: runner_pb2.Execution,
        fingerprint: bytes,
        stream: EventStream,
        request: runner_pb2.ExecuteAgentRequest | None,
        redactor: Redactor,
        on_approvals_changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.record = record
        self.id = OwnerKey(record.execution_id)
        """Its key."""
        self.request = request
        self.fingerprint = fingerprint
        self.stream = stream
        self.redactor = redactor
        self.usage = event_pb2.Usage()
        self.cost = event_pb2.Cost()
        """What it has cost; empty without prices."""
        self.run: AgentRun | None = None
        """What its agent was given; None until the agent begins."""
        self.policy: runner_pb2.DisconnectPolicy.ValueType = runner_pb2.DISCONNECT_POLICY_CANCEL
        self.callers = 0
        """How many calls of ExecuteAgent follow it."""
        self.has_callers_elsewhere = False
        """Whether another replica has callers of it."""
        self.holders = 0
        """How many need it in memory: callers, watchers and reporters."""
        self.files_changed: event_pb2.FilesChangedSummary | None = None
        """What it has changed in all; None for nothing, or when that is not known."""
        self.elapsed_before_seconds = 0.0
        """How long it ran in earlier processes."""
        self._on_approvals_changed = on_approvals_changed
        self.approvals = Approvals(stream.publish, self._record_pending_approvals)
        self.is_parked = False
        """True once its agent has stopped for approvals."""
        self._task: asyncio.Task[None] | None = None
        self._has_outcome = False
        self._end: ExecutionEnd | None = None
        self._interrupted = False
        self.is_queued = False
        """True while it waits for its turn in this process."""
        self.is_passed_on = False
        """True once another process has taken it out of the queue."""
        self.is_portable = request is not None
        """Whether another process can run it: it can read the whole request."""
        self.has_sandbox = False
        """Whether this process has opened its sandbox for the current run, and so closes it."""
        self.claim_floor = 0
        """The lowest token of the next owner; 0 for any."""
        self._started_at = 0.0
        stream.on_break = self.stop
        stream.on_fenced = self._on_fenced
        stream.quota.on_exceeded = self.stop

    @property
    def name(self) -> str:
        """Its execution_id as its callers know it, for texts that they see."""
        return bare_id(self.record.execution_id)

    @property
    def session(self) -> OwnerKey:
        """The key of its session; empty for none."""
        return OwnerKey(self.record.session_id)

    @property
    def state(self) -> "event_pb2.State.ValueType":
        """Its state, as last recorded."""
        return self.record.state

    @property
    def is_final(self) -> bool:
        """True when nothing more can happen to it."""
        return states.is_final(self.state)

    @property
    def is_active(self) -> bool:
        """True from its acceptance or resumption until its end or interruption."""
        return states.is_active(self.state)

    @property
    def can_be_resumed(self) -> bool:
        """True while it is INTERRUPTED."""
        return states.is_interrupted(self.state)

    @property
    def is_waiting(self) -> bool:
        """True while it is parked for approvals."""
        return states.is_waiting(self.state)

    @property
    def has_started(self) -> bool:
        """True once its agent has begun, in this process or an earlier one."""
        return self.record.HasField("start_time")

    @property
    def is_abandoned(self) -> bool:
        """True while it runs, nobody calls it, it waits for nobody, and its policy is to be cancelled then."""
        is_detached = self.policy == runner_pb2.DISCONNECT_POLICY_DETACH
        is_attended = self.callers or self.has_callers_elsewhere or self.record.pending_approvals or is_detached
        return states.is_running(self.state) and not is_attended

    @property
    def is_interrupted(self) -> bool:
        """True when its task was stopped to be continued by a later process."""
        return self._interrupted

    @property
    def is_remote(self) -> bool:
        """True while another process may own it: `record` is what the log had when it was last read."""
        return self.stream.is_remote

    @property
    def owner_token(self) -> int:
        """The token of the claim under which this process has it."""
        return self.stream.owner_token

    def notify(self, notice: event_pb2.Notice) -> None:
        """Publishes a notice."""
        self.stream.publish(notice)

    async def flush(self) -> None:
        """Waits until the log has what is known of it."""
        await self.stream.flush()

    def take_over(self, token: int, stored: StoredExecution) -> None:
        """Makes this process its owner. `stored` is what the log has since the claim."""
        if self.stream.is_remote:
            self.record.CopyFrom(stored.execution)
        self.stream.take_over(token, stored.execution.last_sequence, stored.owners)

    def observe(self, stored: StoredExecution) -> None:
        """Takes over what another process has recorded."""
        if self.stream.is_remote:
            self.record.CopyFrom(stored.execution)
            self.stream.observe(stored.execution.last_sequence, self.is_final, stored.owners)

    async def run_to_end(self, work: Coroutine[Any, Any, str]) -> None:
        """Runs `work`, whose result is the final answer, and records how it ended. Raises nothing of it."""
        self._has_outcome = False
        self._task = asyncio.create_task(self._run_and_record(work), name=f"execution-{self.id}")
        if self._is_told_to_stop:
            self._task.cancel()
        try:
            await asyncio.wait([self._task])
        except asyncio.CancelledError:
            self.interrupt()
            await asyncio.wait([self._task])
            raise
        finally:
            if not self._task.cancelled():
                if self._task.done():  # else it was cancelled twice, and the task records its outcome later
                    self._task.result()
            elif not self._has_outcome:  # cancelled before it began
                work.close()
                self._record_outcome(None, None)

    async def _run_and_record(self, work: Coroutine[Any, Any, str]) -> None:
        """Runs `work`, and records its outcome in the same turn of the loop: with its last events in one commit."""
        output, failure = None, None
        try:
            output = await work
        except asyncio.CancelledError:
            pass
        except Exception as error:  # noqa: BLE001  # the outcome, whatever it is
            failure = error
        self._has_outcome = True
        self._record_outcome(output, failure)

    def stop(self, end: ExecutionEnd) -> None:
        """Cancels its task; `end` is what it finishes with. The first end counts."""
        if not self._is_told_to_stop:
            self._end = end
            self._cancel_task()

    @property
    def is_stopping(self) -> bool:
        """True from `stop` on."""
        return self._end is not None

    def interrupt(self) -> None:
        """Cancels its task without ending it: a later process may continue."""
        if not self._is_told_to_stop:
            self._interrupted = True
            self._cancel_task()

    def pass_on(self) -> None:
        """Cancels its task, which waits for its turn, and records nothing: another process goes on with it."""
        if not self._is_told_to_stop:
            self.is_passed_on = True
            self.stream.is_remote = True
            self._cancel_task()

    def requeue(self, redactor: Redactor) -> None:
        """Makes an interrupted or waiting execution PENDING again."""
        self._change_state(states.PENDING)
        self._interrupted = self.is_parked = self.is_passed_on = self.has_sandbox = False
        self._end = None
        self.redactor = redactor
        self._store_record()

    def publish_started(self, started: event_pb2.Started) -> None:
        """Publishes `started`; from here on its time is counted."""
        self._started_at = time.monotonic()
        self.has_sandbox = True
        self._change_state(states.RUNNING)
        if not self.has_started:
            self.record.start_time.FromNanoseconds(time.time_ns())
            self.record.root, self.record.mode = started.sandbox.root, started.mode
        self.stream.publish(started)
        self._store_record()

    def finish(self, end: ExecutionEnd | None, *, output: str = "") -> None:
        """Publishes `finished`: with `output`, or with the reason why there is none."""
        states.require_transition(self.state, end.state if end else states.SUCCEEDED)
        self.approvals.withdraw()
        self._change_state(end.state if end else states.SUCCEEDED)
        self.record.finish_time.FromNanoseconds(time.time_ns())
        self.usage.stored_bytes = self.stream.quota.used
        self.record.usage.CopyFrom(self.usage)
        finished = event_pb2.Finished(
            state=self.state, output=output, usage=self.usage, files_changed=self.files_changed
        )
        if self.cost.currency:
            self.record.cost.CopyFrom(self.cost)
            finished.cost.CopyFrom(self.cost)
        elapsed = self.elapsed_before_seconds + (time.monotonic() - self._started_at if self._started_at else 0.0)
        finished.elapsed.FromNanoseconds(int(elapsed * 1e9))
        if end:
            self.record.error.code = finished.error.code = end.code
            self.record.error.message = finished.error.message = self.redactor.beginning(
                end.message, _MAX_ERROR_CHARACTERS
            )
            self.record.error.retryable = finished.error.retryable = end.retryable
            if end.caller:
                finished.caller.CopyFrom(end.caller)
        metrics.execution_finished(self.state, finished.error.code, elapsed)
        self.stream.publish(finished)
        self._store_record()

    def end_streams(self, error: CallError) -> None:
        """Ends its watchers with `error`."""
        self.stream.close(error)

    def wait_for_caller(self) -> None:
        """Makes a waiting execution INTERRUPTED: it is decided, but only a caller has what it takes to resume it."""
        self._change_state(states.INTERRUPTED)
        self._store_record()

    def mark_interrupted(self) -> None:
        """Records that the process that worked on it is gone."""
        self._change_state(states.INTERRUPTED)
        self._store_record()

    def _record_pending_approvals(self, count: int) -> None:
        self.record.pending_approvals = count
        self._store_record()
        self._on_approvals_changed()

    @property
    def _is_told_to_stop(self) -> bool:
        return self._end is not None or self._interrupted or self.is_passed_on

    def _on_fenced(self) -> bool:
        """Called when another process has claimed it. Returns whether watchers follow it there."""
        if self.is_queued:
            self.pass_on()
        else:
            self.interrupt()
        return self.is_passed_on

    def _cancel_task(self) -> None:
        if self._task:
            self._task.cancel()

    def _change_state(self, following: "event_pb2.State.ValueType") -> None:
        states.require_transition(self.state, following)
        self.record.state = following

    def _store_record(self) -> None:
        copy = runner_pb2.Execution()
        copy.CopyFrom(self.record)
        self.stream.record_state(copy)

    def _record_outcome(self, output: str | None, failure: Exception | None) -> None:
        """Records an answer, a failure, or neither: it was cancelled."""
        if self.is_passed_on:
            return
        if output is not None:
            self.finish(None, output=output)
        elif self._end:
            self.finish(self._end)
        elif isinstance(failure, ParkedError) and not self._interrupted:
            self._change_state(states.WAITING)
            self._store_record()
        elif self._interrupted or self._is_fenced_by_sandbox(failure):
            self._change_state(states.INTERRUPTED)
            self._store_record()
        else:
            self.finish(failure if isinstance(failure, ExecutionEnd) else _internal_error(failure))

    def _is_fenced_by_sandbox(self, failure: BaseException | None) -> bool:
        """Whether the sandbox knows a later owner. If the log knows none, a failover has lost its claim."""
        if not isinstance(failure, SandboxEnd) or not failure.fenced_by:
            return False
        logger.warning("sandbox_fenced execution=%s token=%d", self.id, failure.fenced_by)
        self.claim_floor = failure.fenced_by + 1
        return True


def _internal_error(failure: BaseException | None) -> ExecutionEnd:
    error_id = secrets.token_hex(4)
    logger.error("execution_failed error_id=%s", error_id, exc_info=failure)
    return ExecutionEnd(f"internal error of the service; its log has the details under error_id={error_id}")
