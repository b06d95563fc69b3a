"""Checks that the model calls tools, with one small request."""

import asyncio
import json
import urllib.error
from http.client import HTTPException
from typing import Any

from runner_service.check.provider import Answer, headers_for, post_json, provider_url
from runner_service.check.result import Check
from runner_service.settings import Settings

_VARIABLE = "STIGMER_LLM_MODEL"
_TIMEOUT_SECONDS = 60.0  # a local model may have to be loaded first
_MAX_OUTPUT_TOKENS = 1000  # of Anthropic, which wants to be told; a model that reasons needs some
_TOOL = "report_ready"
_DESCRIPTION = "Reports that you are ready."
_SCHEMA = {"type": "object", "properties": {"ready": {"type": "boolean"}}, "required": ["ready"]}
_MESSAGE = f"Call the tool {_TOOL} with ready set to true, and do nothing else."
_NEXT_STEP = "choose a model that calls tools, such as qwen3:8b of Ollama"


async def tool_call_check(settings: Settings) -> Check:
    """Asks the model to call a tool, and tells whether it did."""
    provider, model = settings.stigmer_llm_provider, settings.stigmer_llm_model
    path, body = _request(provider, model)
    try:
        answer = await asyncio.to_thread(
            post_json, provider_url(settings) + path, headers_for(settings), body, _TIMEOUT_SECONDS
        )
    except urllib.error.HTTPError as error:
        with error:
            reason = error.read(2000).decode(errors="replace")
        if "tool" in reason.lower():
            return Check(_VARIABLE, "fail", f"{model} cannot call tools: {_one_line(reason)}", _NEXT_STEP)
        text = f"{model} was not tried: {provider} answers with HTTP {error.code}: {_one_line(reason)}"
        return Check(_VARIABLE, "warn", text, "see whether the model's name is right")
    except (OSError, HTTPException, ValueError) as error:
        text = (
            f"{model} did not answer within {_TIMEOUT_SECONDS:g} s" if isinstance(error, TimeoutError) else str(error)
        )
        return Check(_VARIABLE, "warn", f"whether {model} calls tools is not known: {text}", "try again later")
    return _result(model, answer)


def _request(provider: str, model: str) -> tuple[str, dict[str, Any]]:
    messages = [{"role": "user", "content": _MESSAGE}]
    if provider == "anthropic":
        tool = {"name": _TOOL, "description": _DESCRIPTION, "input_schema": _SCHEMA}
        name = model.replace(".", "-")  # as `models` does
        return "/v1/messages", {
            "model": name,
            "max_tokens": _MAX_OUTPUT_TOKENS,
            "messages": messages,
            "tools": [tool],
        }
    function = {"name": _TOOL, "description": _DESCRIPTION, "parameters": _SCHEMA}
    body = {"model": model, "messages": messages, "tools": [{"type": "function", "function": function}]}
    return ("/api/chat", body | {"stream": False}) if provider == "ollama" else ("/chat/completions", body)


def _result(model: str, answer: Answer) -> Check:
    message = _message(answer)
    content = message.get("content")
    blocks = content if isinstance(content, list) else []
    if message.get("tool_calls") or any(isinstance(each, dict) and each.get("type") == "tool_use" for each in blocks):
        return Check(_VARIABLE, "ok", f"{model} calls tools")
    if _TOOL in json.dumps(content, default=str):
        text = f"{model} writes its tool calls as text, which does nothing"
        return Check(_VARIABLE, "fail", text, _NEXT_STEP)
    return Check(_VARIABLE, "warn", f"{model} did not call the tool that it was asked to", _NEXT_STEP)


def _message(answer: Answer) -> dict[str, Any]:
    """Returns the message of an answer by OpenAI (`choices[0].message`), Ollama (`message`) or Anthropic (itself)."""
    choices = answer.get("choices")
    first = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else answer
    message = first.get("message", first)
    return message if isinstance(message, dict) else {}


def _one_line(text: str) -> str:
    return " ".join(text.split())[:300]
