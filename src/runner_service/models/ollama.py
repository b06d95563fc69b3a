"""Ollama."""

import json
from typing import Any

import httpx
from langchain_core.messages import AIMessage, BaseMessage
from langchain_ollama import ChatOllama
from pydantic import PrivateAttr

from runner_service.models import ModelChoice
from runner_service.models.aiohttp_transport import AiohttpTransport
from runner_service.models.chat_model import StreamingChatModel
from runner_service.models.connections import CONNECT_TIMEOUT_SECONDS, Connections
from runner_service.models.failure_texts import read_error
from runner_service.models.failures import ProviderError, status_failure
from runner_service.models.json_values import encoded
from runner_service.models.notices import publish_model_notice
from runner_service.models.ollama_stream import ollama_messages, read_answer

_HEADERS = {"content-type": "application/json"}
_MIN_CONTEXT_TOKENS = 16_384
_CHARACTERS_PER_TOKEN = 3  # fewer than on average, so that the prompt fits


class StreamingChatOllama(StreamingChatModel, ChatOllama):
    """Uses Ollama's client for the connection and LangChain's options; messages and answers are converted here."""

    _last_context_tokens: int = PrivateAttr(default=0)

    async def answer(self, messages: list[BaseMessage], *, stop: list[str] | None = None, **options: Any) -> AIMessage:
        """Makes one call. Raises ProviderError, ConversationTooLongError, httpx.RequestError."""
        conversation = ollama_messages(messages)
        request = self._chat_params([], stop, **options) | {"messages": None, "stream": True}
        request["options"] = {name: value for name, value in request["options"].items() if value is not None}
        if "num_ctx" not in request["options"]:
            request["options"]["num_ctx"] = self._context_tokens(request, conversation.characters)
        fields = encoded({name: value for name, value in request.items() if value is not None})
        body = fields[:-1] + b',"messages":' + conversation.data + b"}"
        http: httpx.AsyncClient = self._async_client._client  # noqa: SLF001  # its `chat` validates away what we read
        async with http.stream("POST", "/api/chat", content=body, headers=_HEADERS) as response:
            if response.status_code != httpx.codes.OK:
                text = await read_error(response)
                raise ProviderError(status_failure(response.status_code, text, response.headers))
            answer = await read_answer(response)
        return await answer.message("ollama")

    def _context_tokens(self, request: dict[str, Any], characters: int) -> int:
        """Returns a context that holds the prompt and the answer, and never less than before: Ollama reloads the model.

        Ollama's own default is a few thousand tokens, beyond which it cuts the beginning of the prompt off in silence.
        """
        size = characters + len(json.dumps(request.get("tools"), default=str))
        needed = size // _CHARACTERS_PER_TOKEN + (request["options"].get("num_predict") or 0)
        tokens = max(self._last_context_tokens, _MIN_CONTEXT_TOKENS)
        while tokens < needed:
            tokens *= 2
        if tokens != self._last_context_tokens:
            self._last_context_tokens = tokens
            publish_model_notice(
                "CONTEXT_SIZE",
                f"Ollama is asked for a context of {tokens:,} tokens; STIGMER_LLM_CONTEXT_TOKENS sets another size",
            )
        return tokens


def make_model(choice: ModelChoice, connections: Connections) -> StreamingChatModel:
    """Creates the client. Its library requires the older httpx, so it has its own connections."""
    transport = AiohttpTransport()
    connections.exit_stack.push_async_callback(transport.aclose)
    return StreamingChatOllama(
        model=choice.name,
        base_url=choice.base_url,
        temperature=choice.temperature,
        num_predict=choice.max_output_tokens or None,
        num_ctx=choice.context_tokens or None,
        async_client_kwargs={
            "transport": transport,
            "timeout": httpx.Timeout(choice.read_timeout, connect=CONNECT_TIMEOUT_SECONDS),
        },
    )
