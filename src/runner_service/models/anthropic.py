"""Anthropic's Claude."""

import warnings
from functools import cached_property

import anthropic
from anthropic.resources.messages import messages
from langchain_anthropic import ChatAnthropic
from langchain_core.language_models import BaseChatModel

from runner_service.models import ModelChoice
from runner_service.models.connections import Connections


def make_model(choice: ModelChoice, connections: Connections) -> BaseChatModel:
    """Creates the client on the shared `connections`."""
    # Published as a notice: see `retirement_date`.
    warnings.filterwarnings("ignore", r"The model '.*' is deprecated", DeprecationWarning)

    class SharedChatAnthropic(ChatAnthropic):
        """Uses the shared connections: its own are never closed."""

        @cached_property
        def _async_client(self) -> anthropic.AsyncClient:
            return anthropic.AsyncClient(**self._client_params, http_client=connections.http)

    fields = {
        "model": choice.name,
        "base_url": choice.base_url,
        "api_key": choice.api_key,
        "temperature": choice.temperature,
        "max_tokens": choice.max_output_tokens,
        "streaming": True,
        "max_retries": 0,
    }
    return SharedChatAnthropic.model_validate({name: value for name, value in fields.items() if value is not None})


def retirement_date(name: str) -> str:
    """Returns the day on which the model is retired, as Anthropic's client states it; empty if unknown."""
    days: dict[str, str] = getattr(messages, "DEPRECATED_MODELS", {})
    return days.get(name, "")
