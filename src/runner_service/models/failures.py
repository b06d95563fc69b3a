"""What a failed model call means: try again, or give up, and how to say it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Literal

import httpx
import httpx2
from langchain_core.exceptions import ContextOverflowError, ModelError

_TRANSIENT_STATUSES = {408, 409, 425, 429}
_SERVER_FAULT = 500
_REFUSALS = {
    401: "the provider does not accept the service's key",
    402: "the provider wants to be paid first",
    403: "the service's key does not allow this",
    404: "the provider does not know this model",
    413: "the request is too large for the model",
}
_PROVIDER_PACKAGES = {"openai", "anthropic", "ollama", "httpx", "httpx2", "httpcore", "httpcore2"}
_MAX_DETAIL_CHARACTERS = 500


class StreamBrokenError(Exception):
    """A stream of the model fell silent, grew without end, or ended before its message was complete."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A model call that failed. `text` is for people; `retry_after` is the provider's wish, in seconds."""

    kind: Literal["transient", "rejected"]
    text: str
    retry_after: float | None = None


def classify(error: BaseException) -> Failure | None:
    """Says what a model call's error means; None for one that is not the provider's doing."""
    status = getattr(error, "status_code", None)
    if isinstance(error, ContextOverflowError):
        return Failure(
            "rejected", f"the conversation no longer fits into the model's context: {_provider_message(error)}"
        )
    if isinstance(status, int) and status > 0:
        return _by_status(error, status)
    if isinstance(error, ModelError):
        return Failure("transient" if error.is_retryable else "rejected", _provider_message(error))
    text = _connection_problem(error)
    return Failure("transient", text) if text else None


def _by_status(error: BaseException, status: int) -> Failure:
    if status in _TRANSIENT_STATUSES or status >= _SERVER_FAULT:
        text = f"the provider is overloaded or failing (HTTP {status}): {_provider_message(error)}"
        return Failure("transient", text, _retry_after(error))
    return Failure(
        "rejected", f"{_REFUSALS.get(status, 'the provider refused')} (HTTP {status}): {_provider_message(error)}"
    )


def _connection_problem(error: BaseException) -> str:
    """What is wrong with a connection, or with what came over it; empty when neither is the matter."""
    match error:
        case StreamBrokenError():
            return str(error)
        case TimeoutError() | httpx.TimeoutException() | httpx2.TimeoutException():
            return "the provider did not answer in time"
        case ConnectionError() | httpx.TransportError() | httpx2.TransportError():
            return f"the connection to the provider failed: {_provider_message(error)}"
        case json.JSONDecodeError() | UnicodeDecodeError():
            return "the provider sent something that makes no sense"
    from_provider = type(error).__module__.partition(".")[0] in _PROVIDER_PACKAGES
    return f"the provider failed: {_provider_message(error)}" if from_provider else ""


def _retry_after(error: BaseException) -> float | None:
    headers = getattr(getattr(error, "response", None), "headers", None)
    if not isinstance(headers, Mapping):
        return None
    if milliseconds := headers.get("retry-after-ms"):
        return _seconds(milliseconds, 0.001)
    return _seconds(headers.get("retry-after", ""), 1.0)


def _seconds(value: str, unit: float) -> float | None:
    try:
        return max(0.0, float(value) * unit)
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError):
        return None


def _provider_message(error: BaseException) -> str:
    """The provider's own words, on one line and not too many."""
    body = getattr(error, "body", None)
    said = body.get("message") if isinstance(body, dict) else None
    text = " ".join(str(said or error or type(error).__name__).split())
    return text if len(text) <= _MAX_DETAIL_CHARACTERS else f"{text[:_MAX_DETAIL_CHARACTERS]}…"
