"""Converts messages to those of OpenAI's chat completions."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from runner_service.models.blocks import Image, plain_blocks

_ROLES = {HumanMessage: "user", SystemMessage: "system"}


def openai_messages(messages: Sequence[BaseMessage], *, short_ids: bool = False) -> list[dict[str, Any]]:
    """Converts messages whose calls and results are paired (`history.repair`).

    Results of tools may only be text: their images follow in a message of the user, after the last result of the step.
    Reasoning is sent back with tool calls of the current turn, where some providers require it, and only there.
    `short_ids` makes the ids of calls nine letters or digits.
    """
    id_of = _short_id if short_ids else str
    turn = max((index for index, each in enumerate(messages) if isinstance(each, HumanMessage)), default=-1)
    converted: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        if images and not isinstance(message, ToolMessage):
            converted.append({"role": "user", "content": images})
            images = []
        if isinstance(message, AIMessage):
            converted.append(_assistant(message, id_of, with_reasoning=index > turn))
        elif isinstance(message, ToolMessage):
            text, own_images = _result(message)
            converted.append({"role": "tool", "tool_call_id": id_of(message.tool_call_id), "content": text})
            images += own_images
        else:
            converted.append({"role": _ROLES[type(message)], "content": _content(message)})
    return converted + ([{"role": "user", "content": images}] if images else [])


def _short_id(call_id: object) -> str:
    return hashlib.blake2b(str(call_id).encode()).hexdigest()[:9]


def _assistant(message: AIMessage, id_of: Callable[[object], str], *, with_reasoning: bool) -> dict[str, Any]:
    converted: dict[str, Any] = {"role": "assistant", "content": message.text or None}
    if message.tool_calls:
        converted["tool_calls"] = [
            {
                "id": id_of(call["id"]),
                "type": "function",
                "function": {"name": call["name"], "arguments": json.dumps(call["args"], ensure_ascii=False)},
            }
            for call in message.tool_calls
        ]
        if with_reasoning:
            kept = ("reasoning_content", "reasoning_details")
            converted |= {name: message.additional_kwargs[name] for name in kept if message.additional_kwargs.get(name)}
    elif not message.text:
        converted["content"] = ""
    return converted


def _result(message: ToolMessage) -> tuple[str, list[dict[str, Any]]]:
    blocks = plain_blocks(message.content)
    images = [each for each in blocks if isinstance(each, Image)]
    text = "\n".join(each if isinstance(each, str) else f"[{each.description}: see below]" for each in blocks)
    shown = list(_shown(images, f"Images from the result of tool call {message.tool_call_id}:"))
    return text, shown if images else []


def _shown(images: list[Image], head: str) -> Iterator[dict[str, Any]]:
    yield {"type": "text", "text": head}
    for image in images:
        yield {"type": "image_url", "image_url": {"url": image.url}}


def _content(message: BaseMessage) -> str | list[dict[str, Any]]:
    blocks = plain_blocks(message.content)
    if all(isinstance(each, str) for each in blocks):
        return "\n".join(map(str, blocks))
    return [
        {"type": "image_url", "image_url": {"url": each.url}}
        if isinstance(each, Image)
        else {"type": "text", "text": each}
        for each in blocks
    ]
