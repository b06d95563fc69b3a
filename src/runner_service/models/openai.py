"""OpenAI, and servers compatible with its chat completions."""

from functools import cached_property
from typing import Any

import httpx2
from langchain_core.messages import AIMessage, BaseMessage
from langchain_openai import ChatOpenAI
from openai import DefaultAioHttpClient
from pydantic import SecretStr

from runner_service.models import ModelChoice
from runner_service.models.chat_model import StreamingChatModel
from runner_service.models.connections import CONNECT_TIMEOUT_SECONDS, Connections
from runner_service.models.endpoint import Endpoint
from runner_service.models.json_values import encoded
from runner_service.models.latest import Latest
from runner_service.models.openai_messages import openai_messages
from runner_service.models.openai_stream import read_answer


class StreamingChatOpenAI(StreamingChatModel, ChatOpenAI):
    """Uses LangChain's options and the key and headers of OpenAI's client; requests and answers are converted here.

    The client copies and encodes a request by Python code, and makes typed objects of each chunk, which LangChain
    turns back into dicts and merges: more than half of the cost of a token, quadratic in the parts of a tool call, and
    wrong for servers that differ from OpenAI.
    """

    async def answer(self, messages: list[BaseMessage], *, stop: list[str] | None = None, **options: Any) -> AIMessage:
        """Makes one call. Raises ProviderError, ConversationTooLongError, httpx2.RequestError."""
        head = self._request_head(stop=stop, **options)
        body = head + b',"messages":' + openai_messages(messages, short_ids=self._has_short_ids) + b"}"
        answer = await read_answer(await self._endpoint.post(body))
        return await answer.message("openai")

    @cached_property
    def _request_head(self) -> Latest[bytes]:
        return Latest(self._encode_head)

    def _encode_head(self, **options: Any) -> bytes:
        """Returns the request up to its messages."""
        request = self._get_request_payload([], **options)
        del request["messages"]
        return encoded(request | {"stream": True, "stream_options": {"include_usage": True}})[:-1]

    @cached_property
    def _endpoint(self) -> Endpoint:
        http: httpx2.AsyncClient = self.http_async_client  # type: ignore[assignment]  # `make_model` gives one
        timeout: httpx2.Timeout = self.request_timeout  # type: ignore[assignment]  # as well
        return Endpoint(self.root_async_client, "chat/completions", http, timeout)

    @property
    def _has_short_ids(self) -> bool:
        """Whether ids of tool calls must have exactly nine letters or digits, as Mistral's models want it."""
        return "mistral" in f"{self.model_name} {self.openai_api_base}".lower()


def make_model(choice: ModelChoice, connections: Connections) -> StreamingChatModel:
    """Creates the client on the shared `connections`."""
    return StreamingChatOpenAI(
        model=choice.name,
        base_url=choice.base_url,
        api_key=SecretStr(choice.api_key.get_secret_value()) if choice.api_key else None,
        temperature=choice.temperature,
        max_tokens=choice.max_output_tokens or None,  # type: ignore[call-arg]  # an alias that mypy does not see
        use_responses_api=False,
        timeout=httpx2.Timeout(choice.read_timeout, connect=CONNECT_TIMEOUT_SECONDS),
        stream_chunk_timeout=None,  # silence is bounded where the tokens arrive, for all providers alike
        max_retries=0,
        http_async_client=connections.by_aiohttp(DefaultAioHttpClient),
    )
