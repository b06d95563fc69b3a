"""OpenAI, and servers compatible with its chat completions."""

import json
from collections.abc import Mapping
from typing import Any

import httpx2
import orjson
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult
from langchain_openai import ChatOpenAI
from openai import DefaultAioHttpClient
from pydantic import PrivateAttr

from runner_service.models import ModelChoice
from runner_service.models.answer import result_of
from runner_service.models.connections import CONNECT_TIMEOUT_SECONDS, Connections
from runner_service.models.failure_texts import read_error
from runner_service.models.failures import ProviderError, status_failure
from runner_service.models.openai_messages import openai_messages
from runner_service.models.openai_stream import read_answer


class StreamingChatOpenAI(ChatOpenAI):
    """Uses LangChain's options and the key and headers of OpenAI's client; requests and answers are converted here.

    The client copies and encodes a request by Python code, and makes typed objects of each chunk, which LangChain
    turns back into dicts and merges: more than half of the cost of a token, quadratic in the parts of a tool call, and
    wrong for servers that differ from OpenAI.
    """

    _headers: dict[str, str] = PrivateAttr(default_factory=dict)

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        """Makes one call. Raises ProviderError, ConversationTooLongError, httpx2.RequestError."""
        del run_manager  # text goes to the current listener
        request = self._get_request_payload([], stop=stop, **kwargs)
        request |= {
            "messages": openai_messages(messages, short_ids=self._has_short_ids),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        answer = await read_answer(await self._post(request))
        return result_of(await answer.message("openai"))

    async def _post(self, body: Mapping[str, Any]) -> httpx2.Response:
        """Returns the response, whose body is unread."""
        http: httpx2.AsyncClient = self.http_async_client  # type: ignore[assignment]  # `make_model` gives one
        client = self.root_async_client
        if not self._headers:
            headers = {**client.default_headers, **client.auth_headers}
            self._headers = {name: value for name, value in headers.items() if isinstance(value, str)}
        url = f"{str(client.base_url).rstrip('/')}/chat/completions"
        timeout: Any = self.request_timeout
        request = http.build_request("POST", url, content=_encoded(body), headers=self._headers, timeout=timeout)
        response = await http.send(request, stream=True)
        if response.is_success:
            return response
        try:
            text = await read_error(response)
        finally:
            await response.aclose()
        raise ProviderError(status_failure(response.status_code, text, response.headers))

    @property
    def _has_short_ids(self) -> bool:
        """Whether ids of tool calls must have exactly nine letters or digits, as Mistral's models want it."""
        return "mistral" in f"{self.model_name} {self.openai_api_base}".lower()


def _encoded(body: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:  # integers of more than 64 bits and halves of surrogate pairs, from the tools of MCP servers
        return json.dumps(body).encode()


def make_model(choice: ModelChoice, connections: Connections) -> BaseChatModel:
    """Creates the client on the shared `connections`."""
    return StreamingChatOpenAI(
        model=choice.name,
        base_url=choice.base_url,
        api_key=choice.api_key,
        temperature=choice.temperature,
        max_tokens=choice.max_output_tokens or None,  # type: ignore[call-arg]  # an alias that mypy does not see
        use_responses_api=False,
        timeout=httpx2.Timeout(choice.read_timeout, connect=CONNECT_TIMEOUT_SECONDS),
        stream_chunk_timeout=None,  # silence is bounded where the tokens arrive, for all providers alike
        max_retries=0,
        http_async_client=connections.by_aiohttp(DefaultAioHttpClient),
    )
