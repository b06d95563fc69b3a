"""One execution: where it stands, who calls it, and its one end."""

import asyncio
import logging
import secrets
import time
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from runner_service.errors import CallError, ExecutionEnd
from runner_service.events.stream import EventStream
from runner_service.redaction import Redactor
from runner_service.storage.event_log import FINAL_STATES
from runner_service.telemetry import metrics
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

if TYPE_CHECKING:
    from runner_service.agent.interface import AgentRun

logger = logging.getLogger(__name__)


class Execution:
    """An execution that runs, or that somebody watches. Belongs to the event loop.

    Its record is what the log knows of it. `fingerprint` is of its request, `request` what may be kept of that.
    """

    def __init__(
        self,
        record: runner_pb2.Execution,
        fingerprint: bytes,
        stream: EventStream,
        request: runner_pb2.ExecuteAgentRequest | None,
    ) -> None:
        self.record = record
        self.request = request
        self.fingerprint = fingerprint
        self.stream = stream
        self.usage = event_pb2.Usage()
        self.redactor = Redactor([])
        self.run: AgentRun | None = None
        """What its work was given, once it has begun."""
        self.policy: runner_pb2.DisconnectPolicy.ValueType = runner_pb2.DISCONNECT_POLICY_CANCEL
        self.callers = 0
        self.holders = 0
        self._work: asyncio.Task[str] | None = None
        self._end: ExecutionEnd | None = None
        self._interrupted = False
        self._began = 0.0
        self.elapsed_before = 0.0
        """How many seconds it had run in earlier processes."""
        stream.on_break = self.end

    @property
    def id(self) -> str:
        """Its name."""
        return self.record.execution_id

    @property
    def state(self) -> "event_pb2.State.ValueType":
        """Where it stands."""
        return self.record.state

    @property
    def is_final(self) -> bool:
        """True when nothing more can happen to it."""
        return self.state in FINAL_STATES

    @property
    def is_at_work(self) -> bool:
        """True from its acceptance until its end or interruption."""
        return self.state in {event_pb2.STATE_PENDING, event_pb2.STATE_RUNNING}

    @property
    def has_begun(self) -> bool:
        """True once its agent has begun, in this process or an earlier one."""
        return self.record.HasField("start_time")

    async def perform(self, work: Coroutine[Any, Any, str]) -> None:
        """Does `work`, whose result is the final answer, and puts down how it ended. Raises nothing of it."""
        self._work = asyncio.create_task(work, name=f"execution-{self.id}")
        if self._end or self._interrupted:
            self._work.cancel()
        try:
            await asyncio.wait([self._work])
        except asyncio.CancelledError:
            self.interrupt()
            await asyncio.wait([self._work])
            raise
        finally:
            self._conclude(self._work)

    def end(self, reason: ExecutionEnd) -> None:
        """Ends its work; `reason` is what it finishes with. The first reason counts."""
        if self._end is None and not self._interrupted:
            self._end = reason
            if self._work:
                self._work.cancel()

    def interrupt(self) -> None:
        """Stops its work without ending it: a later process may continue."""
        if self._end is None and not self._interrupted:
            self._interrupted = True
            if self._work:
                self._work.cancel()

    @property
    def is_interrupted(self) -> bool:
        """True when its work was stopped without being ended."""
        return self._interrupted

    def revive(self) -> None:
        """Puts an interrupted one back in line."""
        self._interrupted = False
        self.record.state = event_pb2.STATE_PENDING
        self.stream.record_state(_copy(self.record))

    def begin(self, started: event_pb2.Started) -> None:
        """Publishes `started`; from here on the clocks run."""
        self._began = time.monotonic()
        self.record.state = event_pb2.STATE_RUNNING
        if not self.has_begun:
            self.record.start_time.GetCurrentTime()
        self.stream.publish(started)
        self.stream.record_state(_copy(self.record))

    def finish(self, end: ExecutionEnd | None, *, output: str = "") -> None:
        """Publishes `finished`: with `output`, or with why there is none."""
        self.record.state = end.state if end else event_pb2.STATE_SUCCEEDED
        self.record.finish_time.GetCurrentTime()
        self.record.usage.CopyFrom(self.usage)
        finished = event_pb2.Finished(state=self.record.state, output=output, usage=self.usage)
        elapsed = self.elapsed_before + (time.monotonic() - self._began if self._began else 0.0)
        finished.elapsed.FromNanoseconds(int(elapsed * 1e9))
        if end:
            self.record.error.code = finished.error.code = end.code
            self.record.error.message = finished.error.message = self.redactor.text(end.message)
            self.record.error.retryable = finished.error.retryable = end.retryable
        metrics.execution_finished(self.state, finished.error.code, elapsed)
        self.stream.publish(finished)
        self.stream.record_state(_copy(self.record))

    def close(self, error: CallError) -> None:
        """Ends its watchers with `error`."""
        self.stream.close(error)

    def _conclude(self, work: "asyncio.Task[str]") -> None:
        failure = None if work.cancelled() else work.exception()
        if not work.cancelled() and not failure:
            self.finish(None, output=work.result())
        elif self._end:
            self.finish(self._end)
        elif self._interrupted:
            self.record.state = event_pb2.STATE_INTERRUPTED
            self.stream.record_state(_copy(self.record))
        else:
            self.finish(failure if isinstance(failure, ExecutionEnd) else _defect(failure))


def _copy(record: runner_pb2.Execution) -> runner_pb2.Execution:
    copy = runner_pb2.Execution()
    copy.CopyFrom(record)
    return copy


def _defect(failure: BaseException | None) -> ExecutionEnd:
    error_id = secrets.token_hex(4)
    logger.error("execution_failed error_id=%s", error_id, exc_info=failure)
    return ExecutionEnd(f"a defect of the service ended this execution; its log has the rest under error_id={error_id}")
