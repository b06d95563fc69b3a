"""Converts messages to those of Anthropic's Messages API, each once in a conversation."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, SystemMessage, ToolMessage

from runner_service.models.blocks import Image, plain_blocks
from runner_service.models.incremental_fold import IncrementalFold
from runner_service.models.json_values import encoded

CACHE_CONTROL = {"type": "ephemeral", "ttl": "5m"}
"""Asks Anthropic to keep what a request begins with, for the next one."""

_FIELDS_OF_THINKING = {"thinking": ("thinking", "signature"), "redacted_thinking": ("data",)}


def anthropic_messages(messages: Sequence[BaseMessage]) -> bytes:
    """Converts messages whose calls and results are paired (`history.repair`) to a JSON object, of fields of a request.

    Results and what the user writes after them are one message. Thinking goes back only where it is signed, which
    another provider's is not. The system's message, and so the tools before it, is to be cached.
    """
    known = _conversation(messages)
    turn = [known.turn_of_user()] if known.user else []
    system = b'"system":%s,' % _array(known.system) if known.system else b""
    return b'{%s"messages":%s}' % (system, _array([*known.messages, *turn]))


@dataclass
class _Conversation:
    """A conversation as it is sent. `user` are the blocks of a message of the user that may go on."""

    system: list[bytes] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    user: list[bytes] = field(default_factory=list)

    def add(self, message: BaseMessage) -> None:
        """Converts a message."""
        if isinstance(message, SystemMessage):
            if message.text:
                self.system.append(encoded(_text(message.text) | {"cache_control": CACHE_CONTROL}))
        elif isinstance(message, AIMessage):
            if self.user:
                self.messages.append(self.turn_of_user())
                self.user = []
            if blocks := list(_answer(message)):
                self.messages.append(encoded({"role": "assistant", "content": blocks}))
        elif isinstance(message, ToolMessage):
            self.user.append(encoded(_result(message)))
        else:
            self.user += map(encoded, _blocks(message))

    def turn_of_user(self) -> bytes:
        """The message of the user that may go on."""
        return b'{"role":"user","content":' + _array(self.user) + b"}"


_conversation = IncrementalFold(_Conversation, _Conversation.add)


def _array(elements: Sequence[bytes]) -> bytes:
    return b"[" + b",".join(elements) + b"]"


def _answer(message: AIMessage) -> Iterator[dict[str, Any]]:
    for block in message.content if isinstance(message.content, list) else ():
        if isinstance(block, dict) and (block.get("signature") or block.get("data")):
            kind = block["type"]
            if names := _FIELDS_OF_THINKING.get(kind):
                yield {"type": kind, **{name: block.get(name) or "" for name in names}}
    if text := message.text.rstrip():
        yield _text(text)
    for call in message.tool_calls:
        yield {"type": "tool_use", "id": call["id"], "name": call["name"], "input": call["args"]}


def _result(message: ToolMessage) -> dict[str, Any]:
    return {
        "type": "tool_result",
        "tool_use_id": message.tool_call_id,
        "content": _blocks(message),
        "is_error": message.status == "error",
    }


def _blocks(message: BaseMessage) -> list[dict[str, Any]]:
    blocks = plain_blocks(message.content)
    return [_image(each) if isinstance(each, Image) else _text(each) for each in blocks if each != ""]


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _image(image: Image) -> dict[str, Any]:
    source = {"type": "base64", "media_type": image.media_type, "data": image.data}
    return {"type": "image", "source": source}
