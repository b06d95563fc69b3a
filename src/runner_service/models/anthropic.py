"""Anthropic's Claude."""

import warnings
from functools import cached_property
from typing import Any

import anthropic
from anthropic import AsyncStream
from anthropic.resources.messages import messages as anthropic_models
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, BaseMessage

from runner_service.models import ModelChoice
from runner_service.models.anthropic_messages import CACHE_CONTROL, anthropic_messages
from runner_service.models.anthropic_stream import AnthropicAnswer
from runner_service.models.chat_model import StreamingChatModel
from runner_service.models.connections import Connections


class StreamingChatAnthropic(StreamingChatModel, ChatAnthropic):
    """Uses Anthropic's client for the connection, LangChain's requests, and our own reader of answers."""

    async def answer(self, messages: list[BaseMessage], *, stop: list[str] | None = None, **options: Any) -> AIMessage:
        """Makes one call. Raises ProviderError, ConversationTooLongError, and the client's errors."""
        options["cache_control"] = CACHE_CONTROL
        request = self._get_request_payload(anthropic_messages(messages), stop=stop, **options) | {"stream": True}
        betas = request.pop("betas", None)
        stream = await self._async_client.post(
            "/v1/messages",
            body=request,
            options={"headers": {"anthropic-beta": ",".join(betas)}} if betas else {},
            cast_to=object,
            stream=True,
            stream_cls=AsyncStream[object],
        )
        answer = AnthropicAnswer()
        await answer.read(stream.response)
        return await answer.builder.message("anthropic", answer.content)


def make_model(choice: ModelChoice, connections: Connections) -> StreamingChatModel:
    """Creates the client on the shared `connections`."""
    # Published as a notice: see `retirement_date`.
    warnings.filterwarnings("ignore", r"The model '.*' is deprecated", DeprecationWarning)

    http = connections.by_aiohttp(anthropic.DefaultAioHttpClient)

    class SharedChatAnthropic(StreamingChatAnthropic):
        """Uses the shared connections: its own are never closed."""

        @cached_property
        def _async_client(self) -> anthropic.AsyncClient:
            return anthropic.AsyncClient(**self._client_params, http_client=http)

    fields = {
        "model": choice.name,
        "base_url": choice.base_url,
        "api_key": choice.api_key,
        "temperature": choice.temperature,
        "max_tokens": choice.max_output_tokens,
        "max_retries": 0,
        "default_request_timeout": choice.read_timeout,
    }
    return SharedChatAnthropic.model_validate({name: value for name, value in fields.items() if value is not None})


def retirement_date(name: str) -> str:
    """Returns the day on which the model is retired, as Anthropic's client states it; empty if unknown."""
    days: dict[str, str] = getattr(anthropic_models, "DEPRECATED_MODELS", {})
    return days.get(name, "")
