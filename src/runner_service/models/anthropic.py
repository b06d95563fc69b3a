"""Anthropic's Claude."""

import warnings
from functools import cached_property
from typing import Any

import anthropic
import httpx2
from anthropic.resources.messages import messages as anthropic_models
from langchain_anthropic import ChatAnthropic
from langchain_core.messages import AIMessage, BaseMessage
from pydantic import Field

from runner_service.models import ModelChoice
from runner_service.models.anthropic_messages import CACHE_CONTROL, anthropic_messages
from runner_service.models.anthropic_stream import AnthropicAnswer
from runner_service.models.chat_model import StreamingChatModel
from runner_service.models.connections import CONNECT_TIMEOUT_SECONDS, Connections
from runner_service.models.endpoint import Endpoint
from runner_service.models.json_values import encoded
from runner_service.models.latest import Latest


class StreamingChatAnthropic(StreamingChatModel, ChatAnthropic):
    """Uses LangChain's options and the headers of Anthropic's client; requests and answers are converted here."""

    http_async_client: httpx2.AsyncClient = Field(exclude=True)
    """The shared connections."""

    async def answer(self, messages: list[BaseMessage], *, stop: list[str] | None = None, **options: Any) -> AIMessage:
        """Makes one call. Raises ProviderError, ConversationTooLongError, httpx2.RequestError."""
        head, headers = self._request_head(stop=stop, cache_control=CACHE_CONTROL, **options)
        answer = AnthropicAnswer()
        await answer.read(await self._endpoint.post(head + b"," + anthropic_messages(messages)[1:], headers))
        return await answer.builder.message("anthropic", answer.content)

    @cached_property
    def _request_head(self) -> Latest[tuple[bytes, dict[str, str]]]:
        return Latest(self._encode_head)

    def _encode_head(self, **options: Any) -> tuple[bytes, dict[str, str]]:
        """Returns the request up to its messages, and headers for it."""
        request = self._get_request_payload([], **options)
        betas = request.pop("betas", None)
        del request["messages"]
        return encoded(request | {"stream": True})[:-1], {"anthropic-beta": ",".join(betas)} if betas else {}

    @cached_property
    def _endpoint(self) -> Endpoint:
        client = anthropic.AsyncAnthropic(**self._client_params, http_client=self.http_async_client)
        timeout = httpx2.Timeout(self.default_request_timeout, connect=CONNECT_TIMEOUT_SECONDS)
        return Endpoint(client, "v1/messages", self.http_async_client, timeout)


def make_model(choice: ModelChoice, connections: Connections) -> StreamingChatModel:
    """Creates the client on the shared `connections`."""
    # Published as a notice: see `retirement_date`.
    warnings.filterwarnings("ignore", r"The model '.*' is deprecated", DeprecationWarning)
    fields = {
        "model": choice.name,
        "base_url": choice.base_url,
        "api_key": choice.api_key and choice.api_key.get_secret_value(),
        "temperature": choice.temperature,
        "max_tokens": choice.max_output_tokens,
        "max_retries": 0,
        "default_request_timeout": choice.read_timeout,
        "http_async_client": connections.by_aiohttp(anthropic.DefaultAioHttpClient),
    }
    return StreamingChatAnthropic.model_validate({name: value for name, value in fields.items() if value is not None})


def retirement_date(name: str) -> str:
    """Returns the day on which the model is retired, as Anthropic's client states it; empty if unknown."""
    days: dict[str, str] = getattr(anthropic_models, "DEPRECATED_MODELS", {})
    return days.get(name, "")
