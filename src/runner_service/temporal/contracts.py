"""How each kind of activity is completed: ExecuteGraphton and ExecuteAgent."""

from typing import Any, Protocol

from google.protobuf.json_format import MessageToDict
from temporalio.client import AsyncActivityHandle
from temporalio.exceptions import ApplicationError

from runner_service import states
from runner_service.errors import CancelledEnd, PreconditionError, UnavailableError
from runner_service.identity import OwnerKey
from runner_service.stigmer.daemon import Daemon
from runner_service.stigmer.formatting import error_text, iso
from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2
from runner_service.storage.activities import OpenActivity
from runner_service.temporal.outcome import Outcome, code_of

GRAPHTON = "ExecuteGraphton"
AGENT = "ExecuteAgent"
JSON_PLAIN = "json/plain"

_MAX_OUTPUT_CHARACTERS = 256 * 1024  # Temporal refuses a result beyond 2 MiB, and keeps each in its history
_PHASES = {states.SUCCEEDED: execution_pb2.EXECUTION_COMPLETED, states.CANCELLED: execution_pb2.EXECUTION_CANCELLED}


class Contract(Protocol):
    """What an activity promises its caller. Raises RPCError where it calls Temporal."""

    has_retries: bool
    """Whether a workflow that still runs starts another attempt after one that was lost."""

    async def settle(self, outcome: Outcome) -> None:
        """Does what has to be done before the activity is completed."""

    async def complete(
        self, handle: AsyncActivityHandle, activity: OpenActivity, outcome: Outcome, *, cancel_requested: bool
    ) -> None:
        """Completes the activity. `cancel_requested` tells whether Temporal wants it to be cancelled."""


class GraphtonContract:
    """`ExecuteGraphton` of the Stigmer daemon: it never fails, and its result is small.

    The daemon's workflow overwrites the execution if the activity fails, and ignores the result if not. So what the
    daemon has to know must have been reported before.
    """

    has_retries = False

    def __init__(self, daemon: Daemon | None) -> None:
        self._daemon = daemon

    async def settle(self, outcome: Outcome) -> None:
        """Implements `Contract`: the final report has arrived, or the daemon refuses it."""
        if self._daemon is None:
            return
        if outcome.refusal is None:
            await self._daemon.wait_reported(OwnerKey(outcome.record.execution_id))
        else:
            error = outcome.finished.finished.error
            is_cancelled = isinstance(outcome.refusal, CancelledEnd)
            await self._daemon.report_refusal(
                outcome.record.execution_id, error.code, error.message, is_cancelled=is_cancelled
            )

    async def complete(
        self,
        handle: AsyncActivityHandle,
        activity: OpenActivity,  # noqa: ARG002  # its result has one form
        outcome: Outcome,
        *,
        cancel_requested: bool,  # noqa: ARG002  # the daemon's workflow has ended then
    ) -> None:
        """Implements `Contract`: with an `AgentExecutionStatus` without lists."""
        record = outcome.record
        status = execution_pb2.AgentExecutionStatus(
            phase=_PHASES.get(outcome.finished.finished.state, execution_pb2.EXECUTION_FAILED),
            started_at=iso(record.start_time) if record.HasField("start_time") else "",
            completed_at=iso(outcome.finished.create_time),
        )
        if record.HasField("error"):
            status.error = error_text(record.error.code, record.error.message)
        await handle.complete(status)


class AgentContract:
    """`ExecuteAgent` of any workflow: its result is the `finished` event; a refusal fails it."""

    has_retries = True

    async def settle(self, outcome: Outcome) -> None:
        """Implements `Contract`: there is nothing to do."""

    async def complete(
        self, handle: AsyncActivityHandle, activity: OpenActivity, outcome: Outcome, *, cancel_requested: bool
    ) -> None:
        """Implements `Contract`."""
        reason = outcome.refusal
        if cancel_requested and outcome.finished.finished.state == states.CANCELLED:
            await handle.report_cancellation()
        elif reason is not None:
            is_final = not isinstance(reason, (PreconditionError, UnavailableError))
            error = ApplicationError(reason.message, type=code_of(reason), non_retryable=is_final)
            await handle.fail(error)
        else:
            event = outcome.finished
            event.finished.output = event.finished.output[:_MAX_OUTPUT_CHARACTERS]
            result: Any = event
            if activity.result_encoding == JSON_PLAIN:
                result = MessageToDict(event, preserving_proto_field_name=True)
            await handle.complete(result)
