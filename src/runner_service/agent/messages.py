"""Prepares a model's message for the conversation: unique ids, redacted."""

import re

from langchain_core.messages import AIMessage, ToolCall

from runner_service.agent.tools.scope import RunScope

_ODD = re.compile(r"[^A-Za-z0-9_-]")
_GOOD_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


async def normalize_message(message: AIMessage, scope: RunScope, message_id: str) -> AIMessage:
    """Returns the message as it enters the conversation.

    Providers repeat or omit ids of messages and of tool calls; the conversation, the events and the output files need
    them unique.
    """
    calls: list[ToolCall] = [
        {**call, "id": _unique_id(scope.run.redactor.text(call["id"] or ""), scope)} for call in message.tool_calls
    ]
    redact = scope.run.redactor.any_value
    return AIMessage(
        content=await redact(message.content),
        additional_kwargs=await redact(message.additional_kwargs),
        response_metadata=await redact(message.response_metadata),
        usage_metadata=message.usage_metadata,
        id=f"{scope.run_id}-{message_id}",
        tool_calls=[
            {**call, "name": _clean_name(call["name"], scope), "args": await redact(call["args"])} for call in calls
        ],
    )


def stop_reason_of(message: AIMessage) -> str:
    """Why the model stopped, in the provider's word; empty when it did not say."""
    said = message.response_metadata
    return str(said.get("finish_reason") or said.get("stop_reason") or said.get("done_reason") or "")


def _clean_name(name: str, scope: RunScope) -> str:
    """Redacts a tool's name. The mark has characters that no provider accepts in a name."""
    redacted = scope.run.redactor.text(name)
    return name if redacted == name else _ODD.sub("_", redacted)


def _unique_id(name: str, scope: RunScope) -> str:
    # A message may have been checkpointed whose calls had not begun when the process died: nobody knows their ids here.
    if scope.run.resumption or not _GOOD_ID.fullmatch(name) or name in scope.call_ids:
        number = len(scope.call_ids) + 1
        while (name := f"{scope.id_prefix}-{number}") in scope.call_ids:
            number += 1
    scope.call_ids.add(name)
    return name
