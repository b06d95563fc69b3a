"""Converts messages to those of OpenAI's chat completions, each once in a conversation."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from runner_service.models.blocks import Image, plain_blocks
from runner_service.models.incremental_fold import IncrementalFold
from runner_service.models.json_values import encoded

_ROLES = {HumanMessage: "user", SystemMessage: "system"}


def openai_messages(messages: Sequence[BaseMessage], *, short_ids: bool = False) -> bytes:
    """Converts messages whose calls and results are paired (`history.repair`) to a JSON array.

    Results of tools may only be text: their images follow in a message of the user, after the last result of the step.
    Reasoning is sent back with tool calls of the current turn, where some providers require it, and only there.
    `short_ids` makes the ids of calls nine letters or digits.
    """
    converted = _CONVERSIONS[short_ids](messages)
    shown = [_message_of_images(converted.images)] if converted.images else []
    return b"[" + b",".join([*converted.messages, *shown]) + b"]"


@dataclass
class _Converted:
    """A conversation as it is sent. `images` are shown after the last result of the step."""

    messages: list[bytes] = field(default_factory=list)
    images: list[dict[str, Any]] = field(default_factory=list)
    without_reasoning: dict[int, bytes] = field(default_factory=dict)
    """By its index, what replaces a message of the current turn in the next one."""


class _Conversion:
    """Adds messages to a conversation. `id_of` makes the ids of calls."""

    def __init__(self, id_of: Callable[[object], str]) -> None:
        self._id_of = id_of

    def add(self, to: _Converted, message: BaseMessage) -> None:
        """Converts a message."""
        if to.images and not isinstance(message, ToolMessage):
            to.messages.append(_message_of_images(to.images))
            to.images = []
        if isinstance(message, AIMessage):
            self._add_answer(to, message)
        elif isinstance(message, ToolMessage):
            self._add_result(to, message)
        else:
            if isinstance(message, HumanMessage):
                for index, plain in to.without_reasoning.items():
                    to.messages[index] = plain
                to.without_reasoning = {}
            to.messages.append(encoded({"role": _ROLES[type(message)], "content": _content(message)}))

    def _add_answer(self, to: _Converted, message: AIMessage) -> None:
        plain = self._answer(message)
        kept = ("reasoning_content", "reasoning_details") if message.tool_calls else ()
        reasoning = {name: message.additional_kwargs[name] for name in kept if message.additional_kwargs.get(name)}
        if reasoning:
            to.without_reasoning[len(to.messages)] = encoded(plain)
        to.messages.append(encoded(plain | reasoning))

    def _add_result(self, to: _Converted, message: ToolMessage) -> None:
        blocks = plain_blocks(message.content)
        images = [each for each in blocks if isinstance(each, Image)]
        text = "\n".join(each if isinstance(each, str) else f"[{each.description}: see below]" for each in blocks)
        to.messages.append(
            encoded({"role": "tool", "tool_call_id": self._id_of(message.tool_call_id), "content": text})
        )
        if images:
            to.images += _shown(images, f"Images from the result of tool call {message.tool_call_id}:")

    def _answer(self, message: AIMessage) -> dict[str, Any]:
        converted: dict[str, Any] = {"role": "assistant", "content": message.text or None}
        if message.tool_calls:
            converted["tool_calls"] = [
                {
                    "id": self._id_of(call["id"]),
                    "type": "function",
                    "function": {"name": call["name"], "arguments": json.dumps(call["args"], ensure_ascii=False)},
                }
                for call in message.tool_calls
            ]
        elif not message.text:
            converted["content"] = ""
        return converted


def _message_of_images(images: list[dict[str, Any]]) -> bytes:
    return encoded({"role": "user", "content": images})


def _short_id(call_id: object) -> str:
    return hashlib.blake2b(str(call_id).encode()).hexdigest()[:9]


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


_CONVERSIONS = {
    False: IncrementalFold(_Converted, _Conversion(str).add),
    True: IncrementalFold(_Converted, _Conversion(_short_id).add),
}
