"""OpenAI, and servers compatible with its chat completions."""

from typing import Any

import httpx2
from langchain_core.language_models import BaseChatModel
from langchain_core.outputs import ChatGenerationChunk
from langchain_openai import ChatOpenAI

from runner_service.models import ModelChoice
from runner_service.models.connections import Connections
from runner_service.models.openai_stream import RawCompletions, Words, reasoning_of
from runner_service.models.text_callbacks import DeliveredChunk


class StreamingChatOpenAI(ChatOpenAI):
    """Knows what was told already, and keeps the reasoning beside the text."""

    def _convert_chunk_to_generation_chunk(
        self, chunk: dict[str, Any], default_chunk_class: type, base_generation_info: dict[str, Any] | None
    ) -> ChatGenerationChunk | None:
        generation = super()._convert_chunk_to_generation_chunk(chunk, default_chunk_class, base_generation_info)
        if generation and (choices := chunk.get("choices")) and (reasoning := reasoning_of(choices[0].get("delta"))):
            generation.message.additional_kwargs["reasoning_content"] = reasoning
        if generation and isinstance(chunk, Words):
            return DeliveredChunk(message=generation.message, generation_info=generation.generation_info)
        return generation


def _http(connections: Connections) -> httpx2.AsyncClient:
    """The aiohttp transport if installed, else the default one."""
    try:
        from runner_service.models.aiohttp_connections import AiohttpClient  # noqa: PLC0415  # optional
    except ImportError:
        return connections.http
    return connections.client_of_class(AiohttpClient)


def make_model(choice: ModelChoice, connections: Connections) -> BaseChatModel:
    """Creates the client on the shared `connections`."""
    model = StreamingChatOpenAI(
        model=choice.name,
        base_url=choice.base_url,
        api_key=choice.api_key,
        temperature=choice.temperature,
        max_tokens=choice.max_output_tokens or None,  # type: ignore[call-arg]  # an alias that mypy does not see
        use_responses_api=False,
        streaming=True,
        stream_usage=True,  # off by default for a server that is not OpenAI's
        stream_chunk_timeout=None,  # silence is bounded where the tokens arrive, for all providers alike
        max_retries=0,
        http_async_client=_http(connections),
    )
    model.async_client = RawCompletions(model.root_async_client)
    return model
