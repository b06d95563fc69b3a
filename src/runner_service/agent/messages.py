"""A model's message, made fit for the conversation: its own id, tool calls that can be told apart, no secrets."""

import json
import re
from collections.abc import Sequence
from contextlib import suppress
from itertools import islice
from typing import Any

from langchain_core.messages import AIMessage, InvalidToolCall, ToolCall
from langchain_core.utils.json import parse_partial_json

from runner_service.agent.tools.scope import RunScope

UNPARSED_ARGUMENTS = "unreadable_arguments"
"""The one argument of a tool call whose arguments were no JSON object: what the model wrote instead."""

_GOOD_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MAX_UNPARSED_CHARACTERS = 2000


def normalize_message(message: AIMessage, scope: RunScope, message_id: str, arguments: Sequence[str]) -> AIMessage:
    """Returns the message as it enters the conversation.

    Providers repeat or omit ids of messages and of tool calls; the conversation, the events and the output files need
    them unique. A call whose `arguments`, as they were streamed, are no JSON object becomes one that fails, so that the
    model is told.
    """
    calls = _calls(message, arguments)
    renamed: list[ToolCall] = [{**call, "id": _unique_id(call["id"], scope)} for call in calls]
    redact = scope.run.redactor.value
    others = {name: value for name, value in message.additional_kwargs.items() if name != "tool_calls"}
    return AIMessage(
        content=redact(_with_ids(message.content, [str(call["id"]) for call in renamed])),
        additional_kwargs=redact(others),
        response_metadata=message.response_metadata,
        usage_metadata=message.usage_metadata,
        id=f"{scope.run_id}-{message_id}",
        tool_calls=[{**call, "args": redact(call["args"])} for call in renamed],
    )


def stop_reason_of(message: AIMessage) -> str:
    """Why the model stopped, in the provider's word; empty when it did not say."""
    said = message.response_metadata
    return str(said.get("finish_reason") or said.get("stop_reason") or said.get("done_reason") or "")


def _calls(message: AIMessage, arguments: Sequence[str]) -> list[ToolCall]:
    """The calls in order. LangChain completes JSON that was cut off: half a command would run as a whole one."""
    if len(arguments) != len(message.tool_calls) + len(message.invalid_tool_calls):  # they were not streamed
        return [*message.tool_calls, *(_unparsed_call(call, call["args"]) for call in message.invalid_tool_calls)]
    completed, given_up = iter(message.tool_calls), iter(message.invalid_tool_calls)
    calls: list[ToolCall] = []
    for raw in arguments:
        if not _is_completable(raw):
            calls.extend(_unparsed_call(call, raw) for call in islice(given_up, 1))
        elif _is_json_object(raw):
            calls.extend(islice(completed, 1))
        else:
            calls.extend(_unparsed_call(call, raw) for call in islice(completed, 1))
    return calls


def _is_json_object(raw: str) -> bool:
    with suppress(ValueError):
        return not raw or isinstance(json.loads(raw, strict=False), dict)
    return False


def _is_completable(raw: str) -> bool:
    with suppress(Exception):  # whatever it is, LangChain has counted it as a failure too
        return not raw or isinstance(parse_partial_json(raw), dict)
    return False


def _unparsed_call(call: ToolCall | InvalidToolCall, raw: str | None) -> ToolCall:
    written = (raw or "")[:_MAX_UNPARSED_CHARACTERS]
    return {
        "name": call["name"] or "unknown",
        "args": {UNPARSED_ARGUMENTS: written},
        "id": call["id"],
        "type": "tool_call",
    }


def _unique_id(given: str | None, scope: RunScope) -> str:
    name = given or ""
    # A message may have been checkpointed whose calls had not begun when the process died: nobody knows their ids here.
    if scope.run.resumption or not _GOOD_ID.fullmatch(name) or name in scope.call_ids:
        number = len(scope.call_ids) + 1
        while (name := f"{scope.id_prefix}-{number}") in scope.call_ids:
            number += 1
    scope.call_ids.add(name)
    return name


def _with_ids(content: str | list[str | dict[Any, Any]], ids: list[str]) -> str | list[str | dict[Any, Any]]:
    """Anthropic has its tool calls in the content as well."""
    if isinstance(content, str):
        return content
    remaining = iter(ids)
    return [
        {**block, "id": next(remaining, block.get("id"))}
        if isinstance(block, dict) and block.get("type") == "tool_use"
        else block
        for block in content
    ]
