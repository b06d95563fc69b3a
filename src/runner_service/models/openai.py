"""OpenAI, and servers compatible with its chat completions."""

from typing import Any

import httpx2
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import BaseMessage
from langchain_core.outputs import ChatResult
from langchain_openai import ChatOpenAI
from openai import AsyncStream

from runner_service.models import ModelChoice
from runner_service.models.answer import result_of
from runner_service.models.connections import CONNECT_TIMEOUT_SECONDS, Connections
from runner_service.models.openai_messages import openai_messages
from runner_service.models.openai_stream import read_answer


class StreamingChatOpenAI(ChatOpenAI):
    """Uses OpenAI's client for the connection, and our own conversion of messages, requests and answers.

    The client makes typed objects of each chunk, which LangChain turns back into dicts and merges: more than half of
    the cost of a token, quadratic in the parts of a tool call, and wrong for servers that differ from OpenAI.
    """

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        """Makes one call. Raises ProviderError, ConversationTooLongError, and the client's errors."""
        del run_manager  # text goes to the current listener
        request = self._get_request_payload([], stop=stop, **kwargs)
        request |= {
            "messages": openai_messages(messages, short_ids=self._has_short_ids),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        stream = await self.root_async_client.post(
            "/chat/completions", body=request, cast_to=object, stream=True, stream_cls=AsyncStream[object]
        )
        answer = await read_answer(stream.response)
        return result_of(await answer.message("openai"))

    @property
    def _has_short_ids(self) -> bool:
        """Whether ids of tool calls must have exactly nine letters or digits, as Mistral's models want it."""
        return "mistral" in f"{self.model_name} {self.openai_api_base}".lower()


def _http(connections: Connections) -> httpx2.AsyncClient:
    """The aiohttp transport if installed, else the default one."""
    try:
        from runner_service.models.aiohttp_connections import AiohttpClient  # noqa: PLC0415  # optional
    except ImportError:
        return connections.http
    return connections.client_of_class(AiohttpClient)


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
        http_async_client=_http(connections),
    )
