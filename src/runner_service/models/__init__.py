"""Language models: choice of the model, and its client.

The choice is made before an execution is accepted, and needs no provider package. `models.clients` imports a
provider's package when its first execution runs.
"""

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

from runner_service.addresses import TcpAddress, is_loopback
from runner_service.errors import FieldViolation, InvalidRequestError, PreconditionError
from runner_service.settings import Provider, SecretStr, Settings
from runner_service.v1 import agent_runner_pb2 as runner_pb2

DEMO_SCRIPT = Path(str(files(__package__).joinpath("demo.yaml")))
"""The default script of the scripted model."""

DEFAULT_FIRST_TOKEN_TIMEOUT_SECONDS = 60.0
DEFAULT_IDLE_TIMEOUT_SECONDS = 60.0

_LOCAL_FIRST_TOKEN_TIMEOUT_SECONDS = 300.0
_KEY_VARIABLES = {"openai": "OPENAI_API_KEY", "anthropic": "ANTHROPIC_API_KEY"}
_PROVIDERS = ", ".join(get_args(Provider))
_PLACEHOLDER_KEY = SecretStr("none")  # sent to self-hosted servers, which need no key


@dataclass(frozen=True)
class ModelChoice:
    """The parameters of a model client. Equal choices share a client.

    `base_url` None is the provider's. `temperature` None and `max_output_tokens` 0 are the provider's defaults.
    `script` is the file of the scripted model, `script_version` its modification time. `first_token_timeout` and
    `idle_timeout` are in seconds. `context_tokens` is for Ollama; 0 follows the prompt.
    """

    provider: Provider
    name: str
    base_url: str | None = None
    api_key: SecretStr | None = None
    temperature: float | None = None
    max_output_tokens: int = 0
    first_token_timeout: float = DEFAULT_FIRST_TOKEN_TIMEOUT_SECONDS
    idle_timeout: float = DEFAULT_IDLE_TIMEOUT_SECONDS
    context_tokens: int = 0
    script: Path | None = None
    script_version: int = 0

    @property
    def read_timeout(self) -> float:
        """How many seconds the connection may be silent: longer than the limits that end the call with a reason."""
        return max(self.first_token_timeout, self.idle_timeout) + 10.0


def resolve(model: runner_pb2.Model, settings: Settings) -> ModelChoice:
    """Chooses the model of a request; its fields override the service's settings.

    Raises:
        InvalidRequestError: unknown provider, or no model named.
        PreconditionError: the provider's key or the script is missing.
    """
    provider = _provider(model, settings)
    if provider == "scripted":
        return _scripted(model, settings)
    return ModelChoice(
        provider=provider,
        name=_name(provider, model, settings),
        base_url=settings.llm_base_url(provider),
        api_key=_api_key(provider, settings),
        temperature=_temperature(provider, model, settings),
        max_output_tokens=model.max_output_tokens or settings.stigmer_llm_max_tokens,
        first_token_timeout=settings.stigmer_llm_first_token_timeout or _first_token_timeout(provider, settings),
        idle_timeout=settings.stigmer_llm_idle_timeout,
        context_tokens=settings.stigmer_llm_context_tokens,
    )


def _first_token_timeout(provider: Provider, settings: Settings) -> float:
    url = settings.llm_base_url(provider)
    is_local = provider == "ollama" or (url is not None and is_loopback(TcpAddress(urlsplit(url).hostname or "", 0)))
    return _LOCAL_FIRST_TOKEN_TIMEOUT_SECONDS if is_local else DEFAULT_FIRST_TOKEN_TIMEOUT_SECONDS


def _provider(model: runner_pb2.Model, settings: Settings) -> Provider:
    wanted = model.provider.strip().lower() or settings.stigmer_llm_provider
    for provider in get_args(Provider):
        if wanted == provider:
            return provider  # type: ignore[no-any-return]  # get_args of a Literal is its strings
    violation = FieldViolation("agent.model.provider", f"should be one of {_PROVIDERS}")
    raise InvalidRequestError([violation])


def _name(provider: Provider, model: runner_pb2.Model, settings: Settings) -> str:
    own = settings.stigmer_llm_model if provider == settings.stigmer_llm_provider else ""
    name = model.name.strip() or own
    if not name:
        problem = f"should name a model of {provider}: neither the request nor STIGMER_LLM_MODEL does"
        raise InvalidRequestError([FieldViolation("agent.model.name", problem)])
    # Anthropic's names have dashes where users and the daemon's settings write dots.
    return name.replace(".", "-") if provider == "anthropic" else name


def _api_key(provider: Provider, settings: Settings) -> SecretStr | None:
    if provider == "ollama":
        return None
    if key := settings.llm_api_key(provider):
        return key
    if settings.llm_base_url(provider):
        return _PLACEHOLDER_KEY
    variable = _KEY_VARIABLES[provider]
    raise PreconditionError(
        f"there is no key for the model provider {provider}: start the service with {variable} set, "
        "or name another provider in agent.model.provider"
    )


def _temperature(provider: Provider, model: runner_pb2.Model, settings: Settings) -> float | None:
    if model.HasField("temperature"):
        return model.temperature
    return settings.stigmer_llm_temperature if provider == settings.stigmer_llm_provider else None


def _scripted(model: runner_pb2.Model, settings: Settings) -> ModelChoice:
    script = settings.stigmer_llm_script or DEMO_SCRIPT
    try:
        version = script.stat().st_mtime_ns  # one stat of a local file
    except OSError as error:
        reason = error.strerror or str(error)
        raise PreconditionError(f"STIGMER_LLM_SCRIPT names {script}, which cannot be read: {reason}") from error
    own = settings.stigmer_llm_model if settings.stigmer_llm_provider == "scripted" else ""
    name = model.name.strip() or own or "scripted"
    if "/" in name:  # probably meant as provider/model
        problem = f"{name} is no model of scripted, and {name.partition('/')[0]} no provider: {_PROVIDERS}"
        raise InvalidRequestError([FieldViolation("agent.model.name", problem)])
    return ModelChoice(
        provider="scripted",
        name=name,
        script=script,
        script_version=version,
        first_token_timeout=settings.stigmer_llm_first_token_timeout or DEFAULT_FIRST_TOKEN_TIMEOUT_SECONDS,
        idle_timeout=settings.stigmer_llm_idle_timeout,
    )
