"""Providers of models, and their keys."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from runner_service.settings.reading import Variables, by_mode, computed
from runner_service.settings.secret_str import SecretStr
from runner_service.settings.types import Count, CountOrZero, Key, Seconds, UrlText, at_least

Provider = Literal["openai", "anthropic", "ollama", "scripted"]

_DEFAULT_MODELS = {"ollama": "qwen2.5-coder:7b", "anthropic": "claude-sonnet-4.5", "scripted": "scripted"}


def _default_model_key(data: Mapping[str, Any]) -> SecretStr | None:
    keys = {"openai": data["openai_api_key"], "anthropic": data["anthropic_api_key"]}
    return keys.get(data["stigmer_llm_provider"])


class ModelVariables(Variables):
    """The defaults of what a request does not say."""

    stigmer_llm_provider: Provider = by_mode("ollama", "anthropic")
    """The model provider: `openai` (and compatible endpoints), `anthropic`, `ollama` or `scripted`."""
    stigmer_llm_model: str = computed(lambda data: _DEFAULT_MODELS.get(data["stigmer_llm_provider"], ""))
    """The model's name. Without a default for `openai`: set it, or let each request name one."""
    ollama_base_url: UrlText = "http://localhost:11434"
    """Where Ollama is, unless STIGMER_LLM_BASE_URL says it."""
    stigmer_llm_base_url: UrlText | None = computed(
        lambda data: data["ollama_base_url"] if data["stigmer_llm_provider"] == "ollama" else None
    )
    """Where the provider is. The default is the provider's own."""
    anthropic_api_key: Key | None = None
    """The key for `anthropic`, unless STIGMER_LLM_API_KEY says it."""
    openai_api_key: Key | None = None
    """The key for `openai`, unless STIGMER_LLM_API_KEY says it."""
    stigmer_llm_api_key: Key | None = computed(_default_model_key)
    """The key of STIGMER_LLM_PROVIDER. Without it the service starts, but executions that need it are refused."""
    stigmer_llm_first_token_timeout: Seconds | None = None
    """How many seconds the model may take to its first token. The default is 300 for `ollama` and for endpoints on \
this machine, which load the model first and read long prompts slowly, else 60."""
    stigmer_llm_idle_timeout: Seconds = 60.0
    """How many seconds the provider may send nothing after the first token. Comments in its stream count as life."""
    stigmer_llm_context_tokens: CountOrZero = 0
    """The context that `ollama` is asked for in tokens (num_ctx), since its default cuts long prompts off in silence.
    0: enough for the prompt, in steps from 16384. Other providers decide by themselves."""
    stigmer_llm_max_tokens: Count = by_mode(8192, 20000)
    """How many tokens one answer of the model may have."""
    stigmer_llm_temperature: Annotated[float, at_least(0, 2)] | None = by_mode(0.0, None)
    """The temperature, 0 to 2. Unset in cloud mode: the provider's own."""
    stigmer_llm_script: Path | None = None
    """The file of turns that `scripted` plays. Unset: a small demonstration."""
