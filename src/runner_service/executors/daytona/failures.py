"""The one place that tells what a failure of the SDK means, from its status, its class, or in the end its text."""

import random
import re
from dataclasses import dataclass
from enum import Enum

from runner_service.executors.protocol import SandboxError

_STATUS_IN_TEXT = re.compile(r"\b(4\d\d|5\d\d)\b")
_LONGEST_PAUSE = 30.0
_OVER_QUOTA = re.compile(r"limit exceeded|quota", re.IGNORECASE)


class Kind(Enum):
    """What to do about it."""

    TRANSIENT = "try the same again"
    RATE_LIMITED = "try the same again, later"
    MISSING = "look whether the box is there and runs"
    BUSY = "the box is changing its state"
    UNAUTHENTICATED = "the key is wrong"
    QUOTA = "there is no room for another box"
    REFUSED = "the request will never work"


@dataclass(frozen=True, slots=True)
class Failure:
    """A failure. `retry_after` is in seconds, 0 when it was not said. Holds nothing of the failure's own text."""

    kind: Kind
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


class BoxLostError(SandboxError):
    """The sandbox is gone."""

    code = "SANDBOX_LOST"


class RefusedError(SandboxError):
    """Daytona refuses the request as it is."""

    code = "SANDBOX_REFUSED"
    retryable = False


def classify(error: BaseException) -> Failure | None:
    """Tells what `error` means; None when it is none of the SDK's or the network's, but a defect."""
    import aiohttp  # noqa: PLC0415  # loaded with the SDK
    from daytona import DaytonaError  # noqa: PLC0415  # see `sdk`

    if isinstance(error, TimeoutError | OSError | aiohttp.ClientError):
        return Failure(Kind.TRANSIENT)
    if not isinstance(error, DaytonaError):
        return None
    status = error.status_code or _status_in(str(error))
    return _failure(status, str(error), error.headers or {})


def ended(failure: Failure, doing: str) -> SandboxError:
    """Returns what the execution ends with when a failure lasts."""
    match failure.kind:
        case Kind.QUOTA:
            return QuotaError(
                "the Daytona organisation has no room for another sandbox; free some, or raise its limits"
            )
        case Kind.RATE_LIMITED:
            return RateLimitError(f"Daytona takes no more requests for now: {doing} was refused too often")
        case Kind.UNAUTHENTICATED:
            return KeyRefusedError(f"Daytona refuses DAYTONA_API_KEY for {doing} (HTTP {failure.status})")
        case Kind.REFUSED:
            return RefusedError(f"Daytona refuses {doing} (HTTP {failure.status}); look at the DAYTONA_ settings")
        case Kind.MISSING:
            return BoxLostError(f"the sandbox is gone: {doing} found nothing")
        case _:
            return SandboxError(f"Daytona cannot be reached for {doing}: {failure}")


def pause(attempt: int, failure: Failure) -> float:
    """Returns how many seconds to wait before another attempt, the first being 0."""
    spread = random.uniform(0.5, 1.0)  # noqa: S311  # against crowds, not against guessing
    own = min(0.05 * 2.0**attempt, 2.0) * spread
    return min(max(own, failure.retry_after * (1 + 0.1 * spread)), _LONGEST_PAUSE)


def _failure(status: int | None, text: str, headers: object) -> Failure:
    match status:
        case 401 | 403:
            return Failure(Kind.UNAUTHENTICATED, status)
        case 404 | 410:
            return Failure(Kind.MISSING, status)
        case 409:
            return Failure(Kind.BUSY, status)
        case 429:
            return Failure(Kind.RATE_LIMITED, status, _retry_after(headers))
        case 400 | 422:
            return Failure(Kind.QUOTA if _OVER_QUOTA.search(text) else Kind.REFUSED, status)
        case _:
            return Failure(Kind.TRANSIENT, status)


def _status_in(text: str) -> int | None:
    """Finds the status of a failed transfer, which the SDK has only in the text."""
    found = _STATUS_IN_TEXT.search(text)
    return int(found[0]) if found else None


def _retry_after(headers: object) -> float:
    items = getattr(headers, "items", dict[str, str]().items)()
    said = [value for name, value in items if str(name).lower().startswith("retry-after")]
    try:
        return max((float(value) for value in said), default=0.0)
    except ValueError:
        return 0.0
