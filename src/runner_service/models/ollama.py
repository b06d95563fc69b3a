"""Ollama."""

import httpx
from langchain_core.language_models import BaseChatModel
from langchain_ollama import ChatOllama

from runner_service.models import ModelChoice
from runner_service.models.connections import Connections


def make_model(choice: ModelChoice, connections: Connections) -> BaseChatModel:
    """Creates the client. Its library requires the older httpx, so it has its own connections."""
    transport = httpx.AsyncHTTPTransport()
    connections.exit_stack.push_async_callback(transport.aclose)
    return ChatOllama(
        model=choice.name,
        base_url=choice.base_url,
        temperature=choice.temperature,
        num_predict=choice.max_output_tokens or None,
        async_client_kwargs={"transport": transport, "timeout": connections.http.timeout.read},
    )
