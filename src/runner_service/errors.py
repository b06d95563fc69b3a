"""All errors of calls and of executions.

`CallError` is an expected refusal of a call; the error guard converts it into a gRPC status with `google.rpc` details.
`ExecutionEnd` ends an execution and becomes its `finished` event. Any other exception is a defect and reaches a caller
as INTERNAL with an id only.
"""

from collections.abc import Sequence
from typing import NamedTuple

import grpc

from runner_service.v1 import execution_event_pb2 as event_pb2


def text_of(error: BaseException) -> str:
    """Returns the text of an error, or its type's name where it has none, as timeouts and broken connections have."""
    return str(error) or type(error).__name__


class CallError(Exception):
    """A call that is refused before it has any effect. `code` is its gRPC status."""

    code = grpc.StatusCode.INTERNAL

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class FieldViolation(NamedTuple):
    """An invalid field of a request: its path in proto names, and what it should be."""

    field: str
    description: str


class InvalidRequestError(CallError):
    """The request is invalid, whatever the service's state. The caller corrects the named fields."""

    code = grpc.StatusCode.INVALID_ARGUMENT

    def __init__(self, violations: Sequence[FieldViolation]) -> None:
        super().__init__("; ".join(f"{field}: {description}" for field, description in violations))
        self.violations = tuple(violations)


class NotFoundError(CallError):
    """What the request refers to is not in the log."""

    code = grpc.StatusCode.NOT_FOUND


class AlreadyExistsError(CallError):
    """The execution id is in use by another request."""

    code = grpc.StatusCode.ALREADY_EXISTS


class AbortedError(CallError):
    """What the caller has seen is no longer current. The caller looks again, then decides."""

    code = grpc.StatusCode.ABORTED


class UnauthenticatedError(CallError):
    """The bearer token is missing or wrong."""

    code = grpc.StatusCode.UNAUTHENTICATED


class CredentialExpiredError(UnauthenticatedError):
    """The time of the caller's token or certificate is over. The caller gets a new one, and attaches again."""


class CredentialRevokedError(UnauthenticatedError):
    """The caller's credential was withdrawn, or no longer allows this call, while the call was open."""


class PermissionDeniedError(CallError):
    """The caller has no role for the method, or the Stigmer daemon denies access; an operator has to act."""

    code = grpc.StatusCode.PERMISSION_DENIED


class PreconditionError(CallError):
    """The service lacks something that the request needs; an operator has to act."""

    code = grpc.StatusCode.FAILED_PRECONDITION


class SequenceOutOfRangeError(CallError):
    """`after_sequence` is beyond the newest event."""

    code = grpc.StatusCode.OUT_OF_RANGE


class LogWentBackError(CallError):
    """The log has lost events that the watcher has seen, and others have come or will come under their numbers."""

    code = grpc.StatusCode.DATA_LOSS

    def __init__(self, after_sequence: int) -> None:
        super().__init__(
            f"events above {after_sequence} that were delivered have been lost from the log: forget them, "
            f"and attach again with after_sequence = {after_sequence}"
        )
        self.after_sequence = after_sequence


class UnavailableError(CallError):
    """Temporarily unavailable: the caller retries after `retry_delay` seconds."""

    code = grpc.StatusCode.UNAVAILABLE

    def __init__(self, message: str, *, retry_delay: float = 1.0) -> None:
        super().__init__(message)
        self.retry_delay = retry_delay


class QueueFullError(UnavailableError):
    """The queue of executions is full. The caller retries after `retry_delay` seconds."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED


class QuotaExceededError(CallError):
    """A quota of the tenant is used up. With `retry_delay`, seconds, the caller calls again; else an operator acts."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED

    def __init__(self, tenant: str, metric: str, value: int, *, retry_delay: float | None = None) -> None:
        super().__init__(f"the tenant {tenant} may have no more: its quota {metric} is {value}")
        self.tenant = tenant
        self.metric = metric
        self.value = value
        self.retry_delay = retry_delay


class WriteStalledError(CallError):
    """A watcher has read nothing for longer than the write timeout."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED


class ExecutionEnd(Exception):  # noqa: N818  # an end, not always an error
    """Ends an execution without an answer.

    `state` is the final state; `code` and `message` become `finished.error`. The message must not contain secrets.
    """

    state: "event_pb2.State.ValueType" = event_pb2.STATE_FAILED
    code = "INTERNAL"
    retryable = False
    caller: event_pb2.Caller | None = None
    """Who ended it, if somebody did."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class LimitExceededEnd(ExecutionEnd):
    """A limit of the request was reached."""

    code = "LIMIT_EXCEEDED"

    def __init__(self, field: str, value: object) -> None:
        super().__init__(f"limits.{field} = {value} was reached; raise it, or give the agent a smaller task")


class QuotaExceededEnd(ExecutionEnd):
    """A quota of the tenant was used up."""

    code = "QUOTA_EXCEEDED"


class DiskLimitEnd(ExecutionEnd):
    """The execution stored more than it may, or most while the disk became full."""

    code = "LIMIT_EXCEEDED"


class RepetitionEnd(ExecutionEnd):
    """The agent repeated the same calls with the same results."""

    code = "LOOP_DETECTED"

    def __init__(self, tool: str, times: int) -> None:
        super().__init__(
            f"the agent went round in circles: {times} calls in a row, the last one of {tool}, brought nothing new; "
            "reword the task, or allow more by MAX_REPEATED_CALLS"
        )


class TimedOutEnd(ExecutionEnd):
    """The execution took longer than `limits.timeout`."""

    state = event_pb2.STATE_TIMED_OUT
    code = "TIMED_OUT"


class CancelledEnd(ExecutionEnd):
    """The execution was cancelled by a caller, or all its callers left."""

    state = event_pb2.STATE_CANCELLED
    code = "CANCELLED"


class InterruptedEnd(ExecutionEnd):
    """The service stopped while the execution ran, and it cannot be resumed."""

    code = "INTERRUPTED"
    retryable = True


class ModelRejectedEnd(ExecutionEnd):
    """The model's provider refused the request: wrong key, unknown model, too much context, or what it says.

    `refuses_content`: what was new in the conversation was refused, so that it would be refused again.
    """

    code = "MODEL_REJECTED"

    def __init__(self, message: str, *, refuses_content: bool = False) -> None:
        super().__init__(message)
        self.refuses_content = refuses_content


class ModelUnavailableEnd(ExecutionEnd):
    """The model's provider could not be reached, failed, or sent invalid data, and all retries are used up."""

    code = "MODEL_UNAVAILABLE"
    retryable = True


class ModelRequestEnd(ExecutionEnd):
    """The service itself failed to make a call of the model: a defect, or a wrong setting."""


class SandboxEnd(ExecutionEnd):
    """The sandbox could not be opened, or was lost. `code` and `retryable` are those of the `SandboxError`."""

    def __init__(self, message: str, *, code: str, retryable: bool, fenced_by: int = 0) -> None:
        super().__init__(message)
        self.code = code
        self.retryable = retryable
        self.fenced_by = fenced_by


class LogUnavailableEnd(ExecutionEnd):
    """The event log cannot be written, so the execution cannot go on."""

    code = "LOG_UNAVAILABLE"
    retryable = True
