"""Recognises a tool call that a model wrote as text, which does nothing."""

import json
import re
from collections.abc import Collection
from contextlib import suppress

_WRAPPING = re.compile(
    r"\s*(?:<tool_call>|<function_call>|<\|tool_call\|>|```(?:json|tool_call)?)?\s*(?P<json>[{\[].*[}\]])"
    r"\s*(?:</tool_call>|</function_call>|```)?\s*",
    re.DOTALL,
)
_ARGUMENT_FIELDS = ("arguments", "parameters", "args", "input")
_MAX_CHARACTERS = 100_000


def call_written_as_text(text: str, tools: Collection[str]) -> str:
    """Returns the tool that a message calls which is nothing but a call in JSON; empty if it is no such message.

    `tools` are the names of the tools that there are.
    """
    match = _WRAPPING.fullmatch(text) if len(text) <= _MAX_CHARACTERS else None
    if match is None:
        return ""
    with suppress(ValueError, RecursionError):
        content = json.loads(match["json"], strict=False)
        call = content[0] if isinstance(content, list) and content else content
        call = call.get("function", call) if isinstance(call, dict) else {}
        if not isinstance(call, dict) or not any(isinstance(call.get(field), dict | str) for field in _ARGUMENT_FIELDS):
            return ""
        name = call.get("name") or call.get("tool")
        return name if isinstance(name, str) and name in tools else ""
    return ""
