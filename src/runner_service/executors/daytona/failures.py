"""Classifies SDK failures by status, class or, failing that, text."""

import random
import re
from dataclasses import dataclass
from enum import Enum

from runner_service.executors.protocol import SandboxError

_STATUS_IN_TEXT = re.compile(r"\b(4\d\d|5\d\d)\b")
_MAX_RETRY_DELAY_SECONDS = 30.0
_OVER_QUOTA = re.compile(r"limit exceeded|quota", re.IGNORECASE)


class FailureKind(Enum):
    """What a failure calls for."""

    TRANSIENT = "retry"
    RATE_LIMITED = "retry later"
    MISSING = "check the state of the sandbox"
    BUSY = "the sandbox is changing state"
    UNAUTHENTICATED = "the key is refused"
    QUOTA = "the organisation's quota is used up"
    REFUSED = "the request can never succeed"


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


class SandboxLostError(SandboxError):
    """The sandbox is gone."""

    code = "SANDBOX_LOST"


class RefusedError(SandboxError):
    """Daytona refuses the request as it is."""

    code = "SANDBOX_REFUSED"
    retryable = False


def classify(error: BaseException) -> Failure | None:
    """Classifies `error`; None if it comes from neither the SDK nor the network, but from a bug."""
    import aiohttp  # noqa: PLC0415  # loaded with the SDK
    from daytona import DaytonaError  # noqa: PLC0415  # see `sdk`

    if isinstance(error, TimeoutError | OSError | aiohttp.ClientError):
        return Failure(FailureKind.TRANSIENT)
    if not isinstance(error, DaytonaError):
        return None
    status = error.status_code or _status_in(str(error))
    return _failure(status, str(error), error.headers or {})


def as_sandbox_error(failure: Failure, operation: str) -> SandboxError:
    """Returns the error that ends the execution when a failure persists."""
    match failure.kind:
        case FailureKind.QUOTA:
            return QuotaError(
                "the Daytona organisation has no room for another sandbox; free some, or raise its limits"
            )
        case FailureKind.RATE_LIMITED:
            return RateLimitError(f"Daytona takes no more requests for now: {operation} was refused too often")
        case FailureKind.UNAUTHENTICATED:
            return KeyRefusedError(f"Daytona refuses DAYTONA_API_KEY for {operation} (HTTP {failure.status})")
        case FailureKind.REFUSED:
            return RefusedError(f"Daytona refuses {operation} (HTTP {failure.status}); look at the DAYTONA_ settings")
        case FailureKind.MISSING:
            return SandboxLostError(f"the sandbox is gone: {operation} found nothing")
        case _:
            return SandboxError(f"Daytona cannot be reached for {operation}: {failure}")


def retry_delay(attempt: int, failure: Failure) -> float:
    """Returns the seconds to wait before the next attempt; `attempt` counts from 0."""
    spread = random.uniform(0.5, 1.0)  # noqa: S311  # jitter, not cryptography
    own = min(0.05 * 2.0**attempt, 2.0) * spread
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
            return Failure(FailureKind.QUOTA if _OVER_QUOTA.search(text) else FailureKind.REFUSED, status)
        case _:
            return Failure(FailureKind.TRANSIENT, status)


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
