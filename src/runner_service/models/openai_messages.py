"""Converts messages to those of OpenAI's chat completions."""

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from runner_service.models.blocks import Image, plain_blocks
from runner_service.models.per_message import PerMessage

_ROLES = {HumanMessage: "user", SystemMessage: "system"}


def openai_messages(messages: Sequence[BaseMessage], *, short_ids: bool = False) -> list[dict[str, Any]]:
    """Converts messages whose calls and results are paired (`history.repair`).

    Results of tools may only be text: their images follow in a message of the user, after the last result of the step.
    Reasoning is sent back with tool calls of the current turn, where some providers require it, and only there.
    `short_ids` makes the ids of calls nine letters or digits.

    What is returned shares its parts with later returns: do not change it.
    """
    conversion = _CONVERSIONS[short_ids]
    turn = max((index for index, each in enumerate(messages) if isinstance(each, HumanMessage)), default=-1)
    converted: list[dict[str, Any]] = []
    images: list[dict[str, Any]] = []
    for index, message in enumerate(messages):
        if images and not isinstance(message, ToolMessage):
            converted.append({"role": "user", "content": images})
            images = []
        if isinstance(message, AIMessage):
            answer = conversion.answer_with_reasoning if index > turn else conversion.answer
            converted.append(answer(message))
        elif isinstance(message, ToolMessage):
            result, own_images = conversion.result(message)
            converted.append(result)
            images += own_images
        else:
            converted.append(conversion.other(message))
    return converted + ([{"role": "user", "content": images}] if images else [])


class _Conversion:
    """Converts each message once."""

    def __init__(self, id_of: Callable[[object], str]) -> None:
        self._id_of = id_of
        self.answer = PerMessage(self._answer)
        self.answer_with_reasoning = PerMessage(self._answer_with_reasoning)
        self.result = PerMessage(self._result)
        self.other = PerMessage(_other)

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

    def _answer_with_reasoning(self, message: AIMessage) -> dict[str, Any]:
        kept = ("reasoning_content", "reasoning_details") if message.tool_calls else ()
        reasoning = {name: message.additional_kwargs[name] for name in kept if message.additional_kwargs.get(name)}
        return self.answer(message) | reasoning

    def _result(self, message: ToolMessage) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        blocks = plain_blocks(message.content)
        images = [each for each in blocks if isinstance(each, Image)]
        text = "\n".join(each if isinstance(each, str) else f"[{each.description}: see below]" for each in blocks)
        result = {"role": "tool", "tool_call_id": self._id_of(message.tool_call_id), "content": text}
        shown = list(_shown(images, f"Images from the result of tool call {message.tool_call_id}:"))
        return result, shown if images else []


def _short_id(call_id: object) -> str:
    return hashlib.blake2b(str(call_id).encode()).hexdigest()[:9]


def _other(message: BaseMessage) -> dict[str, Any]:
    return {"role": _ROLES[type(message)], "content": _content(message)}


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


_CONVERSIONS = {False: _Conversion(str), True: _Conversion(_short_id)}
