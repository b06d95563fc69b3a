"""Every call of a model by an agent: limits, events, a span, and retries."""

import asyncio
import logging
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse
from langchain_core.messages import AIMessage
from langgraph.errors import GraphBubbleUp

from runner_service.agent.calls_as_text import call_written_as_text
from runner_service.agent.messages import normalize_message, stop_reason_of
from runner_service.agent.model_checks import (
    MAX_REASON_CHARACTERS,
    check_usable,
    describe_images,
    heed_ending,
    publish_warning,
    repair_request,
)
from runner_service.agent.model_stream import StreamedMessage
from runner_service.agent.tools.scope import RunScope, current_scope, sub_agent_id
from runner_service.agent.usage import check_model_call, check_tokens, count_usage
from runner_service.errors import ExecutionEnd, ModelRequestEnd, ModelUnavailableEnd
from runner_service.idle_timeout import IdleTimeout, idle_timeout
from runner_service.models import ModelChoice
from runner_service.models.answer import current_text_listener
from runner_service.models.failures import ConversationTooLongError, Failure, StreamBrokenError, classify
from runner_service.models.history import has_images
from runner_service.models.notices import current_notice_listener
from runner_service.storage.event_log import LogError
from runner_service.telemetry import chat_span, metrics, record_usage
from runner_service.v1 import execution_event_pb2 as event_pb2

_CALL_AS_TEXT = (
    "the model wrote a call of {} as text, which does nothing: it does not call tools as its provider expects. "
    "Choose a model that does, such as ollama/qwen3:8b; `runner-service check` tells whether one can"
)

_MAX_ERROR_CHARACTERS = 64 * 1024

logger = logging.getLogger(__name__)


Call = Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]


@dataclass(frozen=True)
class RetryPolicy:
    """How often a model call is tried, and how long to wait in between, in seconds, doubling each time."""

    tries: int = 4
    first_delay_seconds: float = 1.0
    max_delay_seconds: float = 60.0

    def delay(self, attempt: int, requested: float | None) -> float:
        """How long to wait after try number `attempt`; at least what the provider `requested`."""
        backoff = min(self.first_delay_seconds * 2.0 ** (attempt - 1), self.max_delay_seconds)
        return max(requested or 0.0, backoff * random.uniform(0.5, 1.0))  # noqa: S311  # spreads tries, keeps no secret


class ModelCalls(AgentMiddleware[Any, Any, Any]):
    """Stands directly around the model, in the main agent and in every sub-agent."""

    def __init__(self, retries: RetryPolicy) -> None:
        super().__init__()
        self._retries = retries

    async def awrap_model_call(self, request: ModelRequest[Any], handler: Call) -> ModelResponse[Any]:
        """Calls the model, again and again if need be.

        Raises:
            LimitExceededEnd: there was a call, or a token, too many.
            ModelUnavailableEnd: it failed more often than we try.
            ModelRejectedEnd: the model refused to answer, or had no room to.
            ModelRequestEnd: the call failed on our side.
            ConversationTooLongError: the conversation is to be summarised.
        """
        scope = current_scope.get()
        check_model_call(scope.run)
        if scope.run.require_tokens:
            await scope.run.require_tokens()
        _discard_unfinished_message(scope)
        if not sub_agent_id():
            scope.step_results.clear()
        request = repair_request(scope, request)
        attempt = 1
        while True:
            try:
                return await _call(scope, request, handler)
            except Exception as error:  # classified here, and raised again unless another try may help
                failure = _failure_of(error, scope)
                if failure.refuses_content and has_images(request.messages):
                    request = describe_images(scope, request, failure)
                    continue
                if failure.kind != "transient":
                    raise
                await self._wait(scope, failure, attempt, error)
            attempt += 1

    async def _wait(self, scope: RunScope, failure: Failure, attempt: int, error: Exception) -> None:
        delay = self._retries.delay(attempt, failure.retry_after)
        text = scope.run.redactor.text(failure.text)
        logger.warning("model_call_failed attempt=%d tries=%d reason=%s", attempt, self._retries.tries, text)
        if attempt >= self._retries.tries or delay > self._retries.max_delay_seconds:
            raise ModelUnavailableEnd(f"the model did not answer in {attempt} tries: {text}") from error
        again = f"trying again in {delay:.1f} s (try {attempt + 1} of {self._retries.tries})"
        publish_warning(scope, "RETRYING_MODEL", f"{text}; {again}")
        await asyncio.sleep(delay)


def _discard_unfinished_message(scope: RunScope) -> None:
    """Takes back what this agent said last before a crash, unless it was followed by deeds: it is said again now."""
    resumption, agent = scope.run.resumption, sub_agent_id()
    if resumption and (message_id := resumption.unfinished_messages.pop(agent, "")):
        scope.run.events.publish(event_pb2.MessageDiscarded(message_id=message_id), sub_agent_id=agent)


def _failure_of(error: Exception, scope: RunScope) -> Failure:
    """Returns what a failed call means. Raises an ExecutionEnd, or the error itself, if it is not the provider's."""
    if isinstance(error, ExecutionEnd | GraphBubbleUp | LogError):
        raise error
    if failure := classify(error):
        if failure.kind == "overflow" and not isinstance(error, ConversationTooLongError):
            raise ConversationTooLongError(failure) from error
        return failure
    text = " ".join(f"{type(error).__name__}: {str(error)[:_MAX_ERROR_CHARACTERS]}".split())
    reason = scope.run.redactor.beginning(text, MAX_REASON_CHARACTERS)
    logger.error("model_call_defect", exc_info=error)
    raise ModelRequestEnd(f"the service could not make the call of the model: {reason}") from error


async def _call(scope: RunScope, request: ModelRequest[Any], handler: Call) -> ModelResponse[Any]:
    provider, model = scope.run.model.provider, scope.run.model_name
    with chat_span(model, provider=provider) as span, _metered(provider, model):
        streamed, response = await _attempt(scope, request, handler)
        message = _message_of(response)
        stop_reason = scope.run.redactor.beginning(stop_reason_of(message), MAX_REASON_CHARACTERS)
        streamed.finish(stop_reason)
        usage = count_usage(scope.run, message, model)
        metrics.tokens_used(provider, model, usage)
        record_usage(
            span,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cached_tokens,
            stop_reason=stop_reason,
        )
    # What comes next puts the message into a checkpoint, and it is never said again: the log has to have it by then.
    await scope.run.events.flush()
    heed_ending(scope, message, stop_reason)
    settled = await normalize_message(message, scope, streamed.message_id)
    if settled.tool_calls:
        check_tokens(scope.run)
    elif name := call_written_as_text(str(settled.text), _tool_names(request)):
        _publish_notice(scope, "TOOL_CALL_AS_TEXT", _CALL_AS_TEXT.format(name), event_pb2.Notice.LEVEL_WARNING)
    return ModelResponse(result=[settled, *response.result[1:]], structured_response=response.structured_response)


def _tool_names(request: ModelRequest[Any]) -> set[str]:
    return {str(each.get("name") if isinstance(each, dict) else each.name) for each in request.tools}


@contextmanager
def _metered(provider: str, model: str) -> Iterator[None]:
    """Measures a try, and how it ended."""
    began, outcome = time.monotonic(), "succeeded"
    try:
        yield
    except Exception as error:
        failure = classify(error)
        outcome = failure.kind if failure else "failed"
        raise
    except BaseException:
        outcome = "cancelled"
        raise
    finally:
        metrics.model_called(provider, model, outcome, time.monotonic() - began)


async def _attempt(
    scope: RunScope, request: ModelRequest[Any], handler: Call
) -> tuple[StreamedMessage, ModelResponse[Any]]:
    """Makes one call; discards its message when it fails, or has to be made again."""
    async with _silence_limit(scope.run.model) as idle:
        streamed = StreamedMessage(scope, idle)
        token = current_text_listener.set(streamed.add_text)
        notice_token = current_notice_listener.set(lambda code, text: _publish_notice(scope, code, text))
        try:
            response = await handler(request)
            check_usable(_message_of(response))
        except BaseException:
            streamed.discard()
            raise
        finally:
            current_text_listener.reset(token)
            current_notice_listener.reset(notice_token)
    return streamed, response


@asynccontextmanager
async def _silence_limit(model: ModelChoice) -> AsyncIterator[IdleTimeout]:
    """Times out when the first token, or the next one, takes too long, with an error that says which."""
    try:
        async with idle_timeout() as idle:
            idle.arm(model.first_token_timeout)
            yield idle
    except TimeoutError as error:
        if idle.expired:
            raise StreamBrokenError(_silence(model, has_spoken=idle.seconds != model.first_token_timeout)) from error
        raise


def _silence(model: ModelChoice, *, has_spoken: bool) -> str:
    if has_spoken:
        return f"the provider sent nothing for {model.idle_timeout:g} s (STIGMER_LLM_IDLE_TIMEOUT)"
    return f"the provider sent nothing for {model.first_token_timeout:g} s (STIGMER_LLM_FIRST_TOKEN_TIMEOUT)"


def _publish_notice(
    scope: RunScope,
    code: str,
    text: str,
    level: "event_pb2.Notice.Level.ValueType" = event_pb2.Notice.LEVEL_INFO,
) -> None:
    notice = event_pb2.Notice(level=level, code=code, text=text)
    scope.run.events.publish(notice, sub_agent_id=sub_agent_id())


def _message_of(response: ModelResponse[Any]) -> AIMessage:
    message = response.result[0]
    if not isinstance(message, AIMessage):
        raise StreamBrokenError("the provider sent no message of its model")
    return message
