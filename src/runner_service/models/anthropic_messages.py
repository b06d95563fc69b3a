"""Prepares messages for Anthropic's Messages API."""

from collections.abc import Sequence
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from runner_service.models.blocks import Image, plain_blocks

CACHE_CONTROL = {"type": "ephemeral", "ttl": "5m"}
"""Asks Anthropic to keep what a request begins with, for the next one."""

_OWN_BLOCKS = frozenset({"thinking", "redacted_thinking"})


def anthropic_messages(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Returns messages with contents that LangChain passes on unchanged, and that Anthropic takes.

    Thinking goes back only where it is signed, which another provider's is not; empty text is left out. The system's
    message, and so the tools before it, is to be cached.
    """
    return [_prepared(each) for each in messages]


def _prepared(message: BaseMessage) -> BaseMessage:
    if isinstance(message, AIMessage):
        return message.model_copy(update={"content": _assistant_content(message), "additional_kwargs": {}})
    if isinstance(message, HumanMessage | ToolMessage):
        return message.model_copy(update={"content": _content(message)})
    if isinstance(message, SystemMessage) and message.text:
        return SystemMessage([{"type": "text", "text": message.text, "cache_control": CACHE_CONTROL}])
    return message


def _assistant_content(message: AIMessage) -> str | list[Any]:
    if isinstance(message.content, str):
        return message.content.rstrip()
    signed = [
        each
        for each in message.content
        if isinstance(each, dict) and each.get("type") in _OWN_BLOCKS and (each.get("signature") or each.get("data"))
    ]
    if not signed:
        return message.text.rstrip()
    texts = [{"type": "text", "text": message.text.rstrip()}] if message.text.strip() else []
    return [*signed, *texts]


def _content(message: BaseMessage) -> str | list[Any]:
    blocks = plain_blocks(message.content)
    if not any(isinstance(each, Image) for each in blocks):
        return "\n".join(map(str, blocks))
    return [_block(each) for each in blocks]


def _block(block: str | Image) -> dict[str, Any]:
    if isinstance(block, Image):
        source = {"type": "base64", "media_type": block.media_type, "data": block.data}
        return {"type": "image", "source": source}
    return {"type": "text", "text": block}
