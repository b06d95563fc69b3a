"""What a failed model call means, and how to say why it failed."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import httpx
import httpx2
from langchain_core.exceptions import ContextOverflowError, ModelError

from runner_service.models.failure_texts import causes, network_failure, provider_words, words_of

FailureKind = Literal["transient", "rejected", "overflow"]

_TRANSIENT_STATUSES = {408, 409, 425, 429}
_SERVER_FAULT = 500
_TOO_LARGE = 413
_CONTENT_STATUSES = {400, 415, 422}
_REFUSALS = {
    401: "the provider does not accept the service's key",
    402: "the provider wants to be paid first",
    403: "the service's key does not allow this",
    404: "the provider does not know this model",
}
_OVERFLOW = re.compile(
    r"context_length_exceeded|context_?window_?exceeded|exceed_context_size|request_too_large"
    r"|maximum context length|maximum prompt length|maximum number of tokens allowed|context limit exceeded"
    r"|exceeds? (?:the )?(?:available |model's |maximum )?context|context the overflows|greater than the context length"
    r"|(?:prompt|input) is too long|input tokens exceed the configured limit|`inputs` tokens \+ `max_new_tokens`"
    r"|reduce the length of (?:the|your) (?:messages|prompt|input)|too large for model with [\d,]+ maximum context",
    re.IGNORECASE,
)
"""What OpenAI, Anthropic, Gemini, Mistral, Groq, xAI, vLLM, llama.cpp, LM Studio and TGI call a prompt too long."""

_EXHAUSTED = re.compile(r"(?i)insufficient_quota|billing_(?:hard_limit_reached|not_active)|credit balance is too low")
"""A failure that may have the status of a rate limit, and that only a payment ends."""

_TRANSIENT_TYPES = re.compile(
    r"(?i)overloaded|rate_?limit|too_many_requests|api_error|server_error|internal|timeout|unavailable"
)
_REJECTED_TYPES = re.compile(
    r"(?i)invalid|not_?found|authentication|permission|billing|bad_?request|unsupported|content_(?:filter|policy)"
)
_MAX_BODY_CHARACTERS = 100_000
_MAX_NESTING = 5


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed model call. `text` is for people; `retry_after` is what the provider asks for, in seconds."""

    kind: FailureKind
    text: str
    retry_after: float | None = None
    refuses_content: bool = False
    """Whether the request was refused for what it contains, and not for a key, a model or a quota."""


class ProviderError(ModelError):
    """A failure that a provider reported, or that its answer amounts to."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure
        self.is_retryable = failure.kind == "transient"


class StreamBrokenError(ProviderError):
    """The stream of a model fell silent, grew beyond a limit, ended early, or violated its protocol."""

    def __init__(self, text: str) -> None:
        super().__init__(Failure("transient", text))


class ConversationTooLongError(ContextOverflowError):
    """The conversation does not fit into the model's context. Raised to have it summarised."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.text)
        self.failure = failure


def reported_error(body: object) -> ProviderError | ConversationTooLongError:
    """Returns the error to raise for an error object in a stream, or in place of one."""
    failure = reported_failure(body)
    return ConversationTooLongError(failure) if failure.kind == "overflow" else ProviderError(failure)


def protocol_error(error: Exception, data: bytes) -> StreamBrokenError:
    """Returns the error to raise for data of a provider that could not be read."""
    text = f"the provider sent what its protocol does not allow ({type(error).__name__}): {provider_words(data)}"
    return StreamBrokenError(text)


UNREADABLE = (ValueError, LookupError, TypeError, AttributeError)
"""What reading data of an unexpected shape raises."""


def classify(error: BaseException) -> Failure | None:
    """Returns what a model call's error means; None for one that neither the provider nor the network caused."""
    if isinstance(error, ProviderError | ConversationTooLongError):
        return error.failure
    status = getattr(error, "status_code", None)
    if isinstance(status, int) and status > 0:
        headers = getattr(getattr(error, "response", None), "headers", None)
        return status_failure(status, _body_of(error), headers if isinstance(headers, Mapping) else {})
    if isinstance(error, ContextOverflowError):  # deepagents' own, after a summary did not help
        known = next((each.failure for each in causes(error) if isinstance(each, ConversationTooLongError)), None)
        return known or _overflow(words_of(error))
    if text := network_failure(error):
        return Failure("transient", text)
    if isinstance(error, ModelError):
        return Failure("transient" if error.is_retryable else "rejected", words_of(error))
    return None


def reported_failure(body: object, status: int = 200) -> Failure:
    """Returns what an error object means that a provider sent in a stream, or instead of one."""
    words = provider_words(body)
    described = json.dumps(body, default=str)[:_MAX_BODY_CHARACTERS]
    if _OVERFLOW.search(described):
        return _overflow(words)
    if _EXHAUSTED.search(described):
        return Failure("rejected", f"the provider wants to be paid first: {words}")
    kinds = " ".join(_types_in(body))
    code = next((int(each) for each in kinds.split() if each.isdigit()), status)
    if code in _REFUSALS or (code not in _TRANSIENT_STATUSES and _TOO_LARGE - 13 <= code < _SERVER_FAULT):
        text = f"{_REFUSALS.get(code, 'the provider refused')}: {words}"
        return Failure("rejected", text, refuses_content=code in _CONTENT_STATUSES)
    if _REJECTED_TYPES.search(kinds) and not _TRANSIENT_TYPES.search(kinds):
        content = bool(re.search(r"(?i)invalid_request|bad_?request|content", kinds))
        return Failure("rejected", f"the provider refused: {words}", refuses_content=content)
    return Failure("transient", f"the provider is overloaded or failing: {words}")


def status_failure(status: int, body: object, headers: Mapping[str, str]) -> Failure:
    """Returns what an error response means."""
    words = provider_words(body)
    described = json.dumps(body, default=str)[:_MAX_BODY_CHARACTERS]
    limited = status in _TRANSIENT_STATUSES
    if status == _TOO_LARGE or (not limited and _OVERFLOW.search(described)):
        return _overflow(f"(HTTP {status}) {words}")
    if _EXHAUSTED.search(described):
        return Failure("rejected", f"the provider wants to be paid first (HTTP {status}): {words}")
    if limited or status >= _SERVER_FAULT:
        text = f"the provider is overloaded or failing (HTTP {status}): {words}"
        return Failure("transient", text, _retry_after(headers))
    text = f"{_REFUSALS.get(status, 'the provider refused')} (HTTP {status}): {words}"
    return Failure("rejected", text, refuses_content=status in _CONTENT_STATUSES)


def _overflow(words: str) -> Failure:
    return Failure("overflow", f"the conversation no longer fits into the model's context: {words}")


def _body_of(error: BaseException) -> object:
    """The body of an error response: as the client parsed it, else as it came."""
    body = getattr(error, "body", None)
    if body:
        return body
    try:
        text = getattr(error, "response", None).text[:_MAX_BODY_CHARACTERS]  # type: ignore[union-attr]  # checked below
    except (AttributeError, httpx.StreamError, httpx2.StreamError):
        text = ""
    return text or str(error)


def _types_in(body: object, depth: int = 0) -> Iterator[str]:
    """The types, codes and statuses in an error object."""
    if isinstance(body, Mapping) and depth <= _MAX_NESTING:
        yield from (str(body[name]) for name in ("type", "code", "status") if body.get(name))
        yield from _types_in(body.get("error"), depth + 1)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    if milliseconds := headers.get("retry-after-ms"):
        return _seconds(milliseconds, 0.001)
    return _seconds(headers.get("retry-after", ""), 1.0)


def _seconds(value: Any, unit: float) -> float | None:
    try:
        return max(0.0, float(value) * unit)
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds())
    except (TypeError, ValueError, OverflowError):
        return None
