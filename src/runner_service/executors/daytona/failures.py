"""Classifies failures of the SDK by status, class or, failing that, text."""

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from runner_service.executors.protocol import FileError, SandboxError, SandboxLostError

_STATUS_IN_TEXT = re.compile(r"\b(4\d\d|5\d\d)\b")
_MAX_RETRY_DELAY_SECONDS = 30.0
_OVER_QUOTA = re.compile(r"limit exceeded|quota", re.IGNORECASE)
_UNKNOWN_SNAPSHOT = re.compile(r"snapshot\b.*\bnot found", re.IGNORECASE)
_NO_SPACE = re.compile(r"no space left|disk quota exceeded|ENOSPC", re.IGNORECASE)
_NOT_PERMITTED = re.compile(r"permission denied|read-only file system", re.IGNORECASE)


class FailureKind(Enum):
    """What a failure calls for."""

    TRANSIENT = "retry"
    RATE_LIMITED = "retry later"
    MISSING = "check the state of the sandbox"
    BUSY = "the sandbox is changing state"
    UNAUTHENTICATED = "the key is refused"
    QUOTA = "the organisation's quota is used up"
    UNKNOWN_SNAPSHOT = "the snapshot does not exist"
    NO_SPACE = "the disk of the sandbox is full"
    NOT_PERMITTED = "the sandbox may not write there"
    UNREADABLE = "the SDK does not fit the server"
    REFUSED = "the request can never succeed"


STATE_DEPENDENT = frozenset(
    {FailureKind.MISSING, FailureKind.BUSY, FailureKind.UNAUTHENTICATED, FailureKind.QUOTA, FailureKind.REFUSED}
)
"""Kinds that mean nothing when the toolbox or its proxy reports them: the state of the sandbox decides."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A classified failure. `retry_after` is in seconds, 0 if absent. Holds none of the original text."""

    kind: FailureKind
    status: int | None = None
    retry_after: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind.name.lower()}" + (f" (HTTP {self.status})" if self.status else "")


class QuotaError(SandboxError):
    """Daytona has no room for another sandbox."""

    code = "SANDBOX_QUOTA_EXCEEDED"


class RateLimitError(SandboxError):
    """Daytona takes no more requests for now."""

    code = "SANDBOX_RATE_LIMITED"


class KeyRefusedError(SandboxError):
    """Daytona does not accept the key, or not for this."""

    code = "SANDBOX_UNAUTHENTICATED"
    retryable = False


class RefusedError(SandboxError):
    """Daytona refuses the request as it is."""

    code = "SANDBOX_REFUSED"
    retryable = False


class IncompatibleServerError(SandboxError):
    """The SDK cannot read the answers of this version of the server."""

    code = "SANDBOX_INCOMPATIBLE"
    retryable = False


def classify(error: BaseException) -> Failure | None:
    """Classifies `error`; None if it comes from neither the SDK nor the network, but from a bug."""
    import aiohttp  # noqa: PLC0415  # loaded with the SDK
    from daytona import DaytonaError  # noqa: PLC0415  # see `sdk`

    # Early SDKs let errors of their generated client through.
    is_ours = isinstance(error, DaytonaError) or type(error).__module__.startswith("daytona_")
    if not is_ours and not isinstance(error, TimeoutError | OSError | aiohttp.ClientError):
        return None
    if is_ours and any(type(cause).__name__ == "ValidationError" for cause in _causes(error)):
        return Failure(FailureKind.UNREADABLE)
    status = next((status for cause in _causes(error) if (status := _status_of(cause))), None)
    return _failure(status or _status_in(str(error)), str(error), getattr(error, "headers", None) or {})


def as_sandbox_error(failure: Failure, operation: str) -> SandboxError:  # noqa: PLR0911  # one for each kind
    """Returns the error that ends the execution when a failure of the API persists."""
    match failure.kind:
        case FailureKind.QUOTA:
            return QuotaError(
                "the Daytona organisation has no room for another sandbox; free some, or raise its limits"
            )
        case FailureKind.RATE_LIMITED:
            return RateLimitError(f"Daytona takes no more requests for now: {operation} was refused too often")
        case FailureKind.UNAUTHENTICATED:
            return KeyRefusedError(f"Daytona refuses DAYTONA_API_KEY for {operation} (HTTP {failure.status})")
        case FailureKind.UNKNOWN_SNAPSHOT:
            return RefusedError("Daytona does not know the snapshot DAYTONA_DEV_TOOLS_SNAPSHOT_ID")
        case FailureKind.REFUSED:
            return RefusedError(f"Daytona refuses {operation} (HTTP {failure.status}); look at the DAYTONA_ settings")
        case FailureKind.MISSING:
            return SandboxLostError(f"the sandbox is gone: {operation} found nothing")
        case FailureKind.UNREADABLE:
            return IncompatibleServerError(f"the Daytona SDK cannot read the answer to {operation}")
        case _:
            return SandboxError(f"Daytona cannot be reached for {operation}: {failure}")


def as_toolbox_error(failure: Failure, operation: str) -> SandboxError:
    """Returns the error that ends the execution when a toolbox keeps refusing although its sandbox is started."""
    return SandboxError(f"the sandbox is started, but {operation} fails all the time: {failure}")


def as_file_error(failure: Failure) -> FileError | None:
    """Returns what a failed transfer says about the disk of the sandbox, for a model; None if nothing."""
    match failure.kind:
        case FailureKind.NO_SPACE:
            return FileError("no_space", "the disk of the sandbox is full; delete files that are not needed")
        case FailureKind.NOT_PERMITTED:
            return FileError("permission_denied", "the sandbox may not write to its directory for temporary files")
        case _:
            return None


def retry_delay(attempt: int, failure: Failure) -> float:
    """Returns the seconds to wait before the next attempt; `attempt` counts from 0."""
    spread = random.uniform(0.5, 1.0)  # noqa: S311  # jitter, not cryptography
    own = min(0.05 * 2.0 ** min(attempt, 10), 2.0) * spread
    return min(max(own, failure.retry_after * (1 + 0.1 * spread)), _MAX_RETRY_DELAY_SECONDS)


def _failure(status: int | None, text: str, headers: object) -> Failure:
    match status:
        case 401 | 403:
            return Failure(FailureKind.UNAUTHENTICATED, status)
        case 404 | 410:
            return Failure(FailureKind.MISSING, status)
        case 409:
            return Failure(FailureKind.BUSY, status)
        case 429:
            return Failure(FailureKind.RATE_LIMITED, status, _retry_after(headers))
        case 400 | 422:
            return Failure(_kind_of_bad_request(text), status)
        case _:
            return Failure(FailureKind.TRANSIENT, status)


def _kind_of_bad_request(text: str) -> FailureKind:
    """Tells by the text what a 400 means, which Daytona uses for much."""
    patterns = {
        _NO_SPACE: FailureKind.NO_SPACE,
        _NOT_PERMITTED: FailureKind.NOT_PERMITTED,
        _UNKNOWN_SNAPSHOT: FailureKind.UNKNOWN_SNAPSHOT,
        _OVER_QUOTA: FailureKind.QUOTA,
    }
    return next((kind for pattern, kind in patterns.items() if pattern.search(text)), FailureKind.REFUSED)


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yields `error` and what it was raised from; the SDK wraps errors several times."""
    for _ in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__


def _status_of(error: BaseException) -> int | None:
    """Returns the status in an attribute of the SDK's errors, or of aiohttp's."""
    status = getattr(error, "status_code", None) or getattr(error, "status", None)
    return status if isinstance(status, int) else None


def _status_in(text: str) -> int | None:
    """Finds the status of a failed transfer, which the SDK only puts in the text."""
    found = _STATUS_IN_TEXT.search(text)
    return int(found[0]) if found else None


def _retry_after(headers: object) -> float:
    items = getattr(headers, "items", dict[str, str]().items)()
    values = [value for name, value in items if str(name).lower().startswith("retry-after")]
    try:
        return max((float(value) for value in values), default=0.0)
    except ValueError:
        return 0.0
