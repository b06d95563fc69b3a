"""What the providers' own APIs refuse, from their documented rules: for requests that our clients have made."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_COMBINATIONS = {"anyOf", "oneOf", "allOf", "enum", "not"}


def problems(provider: str, request: Mapping[str, Any]) -> list[str]:
    """Returns what the provider would refuse about a request."""
    check = {"openai": _openai, "anthropic": _anthropic, "ollama": _ollama}[provider]
    json.dumps(request, ensure_ascii=False).encode()
    return list(check(request))


def _openai(request: Mapping[str, Any]) -> Iterator[str]:
    for tool in request.get("tools", ()):
        yield from _tool(tool["function"]["name"], tool["function"]["parameters"])
    open_calls: list[str] = []
    for index, message in enumerate(request["messages"]):
        if message["role"] == "tool":
            yield from (f"messages[{index}]: {each}" for each in _openai_result(message, open_calls))
            continue
        if open_calls:
            yield f"messages[{index}]: calls {open_calls} have no result"
        open_calls = [call["id"] for call in message.get("tool_calls", ())]
        check = _openai_assistant if message["role"] == "assistant" else _openai_other
        yield from (f"messages[{index}]: {each}" for each in check(message))
    if open_calls:
        yield f"calls {open_calls} have no result"


def _openai_result(message: Mapping[str, Any], open_calls: list[str]) -> Iterator[str]:
    if message["tool_call_id"] in open_calls:
        open_calls.remove(message["tool_call_id"])
    else:
        yield "a result without a call"
    content = message["content"]
    if not isinstance(content, str) and any(each["type"] != "text" for each in content):
        yield "a result that is not text"


def _openai_assistant(message: Mapping[str, Any]) -> Iterator[str]:
    calls = message.get("tool_calls")
    if (message.get("content") is None and not calls) or calls == []:
        yield "neither content nor calls"
    if isinstance(message.get("content"), list):
        yield "content that is not text"
    ids = [call["id"] for call in calls or ()]
    if len(set(ids)) < len(ids) or not all(ids):
        yield "ids of calls"
    for call in calls or ():
        if not _NAME.fullmatch(call["function"]["name"]):
            yield "the name of a call"
        if not isinstance(json.loads(call["function"]["arguments"]), dict):
            yield "arguments"


def _openai_other(message: Mapping[str, Any]) -> Iterator[str]:
    content = message["content"]
    if not content:
        yield "no content"
    if message["role"] == "system" and not isinstance(content, str) and any(each["type"] != "text" for each in content):
        yield "system content that is not text"


def _anthropic(request: Mapping[str, Any]) -> Iterator[str]:
    for tool in request.get("tools", ()):
        yield from _tool(tool["name"], tool["input_schema"])
    seen: set[str] = set()
    open_calls: list[str] = []
    if request["messages"][0]["role"] != "user":
        yield "the first message is not the user's"
    for index, message in enumerate(request["messages"]):
        blocks = _blocks(message["content"])
        results = [each["tool_use_id"] for each in blocks if each["type"] == "tool_result"]
        if sorted(results) != sorted(open_calls):
            yield f"messages[{index}]: results {results} for calls {open_calls}"
        open_calls = [each["id"] for each in blocks if each["type"] == "tool_use"]
        yield from (f"messages[{index}]: the id {each}" for each in open_calls if each in seen)
        yield from (f"messages[{index}]: the id {each}" for each in open_calls if not _NAME.fullmatch(each))
        seen.update(open_calls)
        yield from (f"messages[{index}]: {each}" for each in _anthropic_blocks(blocks))
    if open_calls:
        yield f"calls {open_calls} have no result"


def _anthropic_blocks(blocks: Sequence[Any]) -> Iterator[str]:
    known = {"text", "image", "tool_use", "tool_result", "thinking", "redacted_thinking"}
    if not blocks or any(each["type"] == "text" and not each["text"].strip() for each in blocks):
        yield "empty text"
    if any(each["type"] == "thinking" and not each.get("signature") for each in blocks):
        yield "thinking without a signature"
    if unknown := {each["type"] for each in blocks} - known:
        yield f"blocks {unknown}"


def _ollama(request: Mapping[str, Any]) -> Iterator[str]:
    for index, message in enumerate(request["messages"]):
        if not isinstance(message["content"], str):
            yield f"messages[{index}]: content that is not text"
        for call in message.get("tool_calls", ()):
            if not isinstance(call["function"]["arguments"], dict):
                yield f"messages[{index}]: arguments that are no object"


def _tool(name: str, schema: Mapping[str, Any]) -> Iterator[str]:
    if not _NAME.fullmatch(name):
        yield f"tool {name}: its name"
    if schema.get("type") != "object" or _COMBINATIONS & schema.keys():
        yield f"tool {name}: its schema {sorted(schema)}"


def _blocks(content: str | Sequence[Any]) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
