"""Checks that the model's provider answers, accepts the key and has the model."""

import asyncio
import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException
from typing import Any

from runner_service.check.network import TIMEOUT_SECONDS
from runner_service.check.result import Check
from runner_service.settings import Settings

_URLS = {"openai": "https://api.openai.com/v1", "anthropic": "https://api.anthropic.com"}
_MODEL_LISTS = {"openai": "/models", "anthropic": "/v1/models?limit=1000", "ollama": "/api/tags"}
_REFUSAL_STATUSES = frozenset({401, 403})
_MAX_LIST_BYTES = 4 << 20  # bytes

Answer = dict[str, Any]


async def model_check(settings: Settings) -> Check:
    """Asks the provider for its list of models; of the settings, only the key is sent."""
    provider = settings.stigmer_llm_provider
    if provider == "scripted":
        return Check("STIGMER_LLM_PROVIDER", "ok", "scripted: turns are played from a file")
    url = provider_url(settings)
    try:
        answer = await asyncio.to_thread(_get, url + _MODEL_LISTS[provider], headers_for(settings))
    except urllib.error.HTTPError as error:
        error.close()
        return _refusal_result(provider, url, error.code)
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or type(error).__name__
        next_step = "start it" if provider == "ollama" else "see whether the network and STIGMER_LLM_BASE_URL are right"
        return Check("STIGMER_LLM_BASE_URL", "fail", f"{provider} at {url} does not answer: {reason}", next_step)
    return _model_result(settings, url, _names(answer))


def _refusal_result(provider: str, url: str, code: int) -> Check:
    if code in _REFUSAL_STATUSES:
        text = f"{provider} at {url} refuses the key: HTTP {code}"
        return Check("STIGMER_LLM_API_KEY", "fail", text, "set a key that is valid")
    text = f"{provider} at {url} answers, but its list of models cannot be read: HTTP {code}"
    return Check("STIGMER_LLM_BASE_URL", "warn", text, "see whether the path in STIGMER_LLM_BASE_URL is right")


def _model_result(settings: Settings, url: str, names: frozenset[str]) -> Check:
    provider, model = settings.stigmer_llm_provider, settings.stigmer_llm_model
    if not model or _has(names, model):
        return Check(
            "STIGMER_LLM_PROVIDER", "ok", f"{provider} at {url} answers" + (f" and has {model}" if model else "")
        )
    text = f"{provider} at {url} answers, but does not have {model}"
    next_step = f"ollama pull {model}" if provider == "ollama" else "set STIGMER_LLM_MODEL to one that it has"
    return Check("STIGMER_LLM_MODEL", "warn", text, next_step)


def _has(names: frozenset[str], model: str) -> bool:
    """Matches names with dots as with dashes, `x` as `x:latest`, and undated names with dated ones."""
    dashed = model.replace(".", "-")
    return any(name in {model, dashed, f"{model}:latest"} or name.startswith(f"{dashed}-") for name in names)


def provider_url(settings: Settings) -> str:
    """Returns the base URL of the provider."""
    return settings.stigmer_llm_base_url or _URLS[settings.stigmer_llm_provider]


def headers_for(settings: Settings) -> Mapping[str, str]:
    """Returns the headers that carry the key."""
    if settings.stigmer_llm_api_key is None:
        return {}
    key = settings.stigmer_llm_api_key.get_secret_value()
    match settings.stigmer_llm_provider:
        case "openai":
            return {"Authorization": f"Bearer {key}"}
        case "anthropic":
            return {"x-api-key": key, "anthropic-version": "2023-06-01"}
        case _:
            return {}


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """Leaves a redirect as it is: followed, it would take the key along to another host."""

    def redirect_request(self, *_: object) -> None:
        return None


def post_json(url: str, headers: Mapping[str, str], body: Answer, timeout_seconds: float) -> Answer:
    """Posts a JSON object and returns the answer, one as well. Raises OSError, HTTPException, ValueError."""
    data, content_type = json.dumps(body).encode(), {"content-type": "application/json"}
    request = urllib.request.Request(url, data, {**headers, **content_type})  # noqa: S310  # see below
    return _open(request, timeout_seconds)


def _get(url: str, headers: Mapping[str, str]) -> Answer:
    request = urllib.request.Request(url, headers=dict(headers))  # noqa: S310  # settings take http and https only
    return _open(request, TIMEOUT_SECONDS)


def _open(request: urllib.request.Request, timeout_seconds: float) -> Answer:
    with urllib.request.build_opener(_NoRedirects).open(request, timeout=timeout_seconds) as response:
        answer = json.loads(response.read(_MAX_LIST_BYTES))
    if not isinstance(answer, dict):
        raise ValueError("the answer is no JSON object")  # noqa: TRY004  # as for what is no JSON at all
    return answer


def _names(answer: Answer) -> frozenset[str]:
    """Returns the models' names from a list by OpenAI, Anthropic (`data[].id`) or Ollama (`models[].name`)."""
    models = answer.get("data") or answer.get("models") or []
    return frozenset(str(model.get("id") or model.get("name")) for model in models if isinstance(model, dict))
