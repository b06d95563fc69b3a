"""Parses the arguments of tool calls as models write them."""

import asyncio
import json
import math
import re
from typing import Any

from runner_service.models.json_values import has_too_many_values

UNPARSED_ARGUMENTS = "unreadable_arguments"
"""The one argument of a call whose arguments are no JSON object: what the model wrote."""

_MAX_UNPARSED_CHARACTERS = 2000
_MAX_INLINE_CHARACTERS = 4 * 1024  # longer ones are parsed in a thread
_MAX_DEPTH = 100
_MAX_SAFE_INTEGER = 2**63 - 1
_SURROGATES = re.compile("[\ud800-\udfff]")


async def parse_arguments(raw: str) -> dict[str, Any]:
    """Returns the arguments of a call: a JSON object that every part of the service can encode.

    Empty arguments are an empty object. What is not a whole JSON object, or holds a value that no provider could be
    sent again (half a surrogate pair, NaN, an integer of more than 64 bits, nesting above 100), or has more than
    `MAX_VALUES` values, becomes an object with the one field `UNPARSED_ARGUMENTS`.
    """
    if len(raw) <= _MAX_INLINE_CHARACTERS:
        return _parse(raw)
    return await asyncio.to_thread(_parse_long, raw)


def _parse_long(raw: str) -> dict[str, Any]:
    return _unparsed(raw) if has_too_many_values(raw.encode("utf-8", "surrogatepass")) else _parse(raw)


def _parse(raw: str) -> dict[str, Any]:
    try:
        value = json.loads(raw, strict=False) if raw.strip() else {}
        if isinstance(value, str):  # encoded twice
            value = json.loads(value, strict=False)
    except (ValueError, RecursionError):
        return _unparsed(raw)
    if value is None:
        return {}
    return value if isinstance(value, dict) and _is_encodable(value) else _unparsed(raw)


def _unparsed(raw: str) -> dict[str, Any]:
    return {UNPARSED_ARGUMENTS: _SURROGATES.sub("\N{REPLACEMENT CHARACTER}", raw[:_MAX_UNPARSED_CHARACTERS])}


def _is_encodable(value: Any, depth: int = 0) -> bool:
    match value:
        case str():
            return not _SURROGATES.search(value)
        case int():
            return abs(value) <= _MAX_SAFE_INTEGER
        case float():
            return math.isfinite(value)
        case dict():
            return depth < _MAX_DEPTH and all(_is_encodable(each, depth + 1) for each in (*value, *value.values()))
        case list():
            return depth < _MAX_DEPTH and all(_is_encodable(each, depth + 1) for each in value)
    return value is None
