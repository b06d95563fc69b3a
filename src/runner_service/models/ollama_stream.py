"""Speaks Ollama's own chat protocol."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import httpx
import orjson
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage

from runner_service.models.answer import AnswerBuilder
from runner_service.models.blocks import Image, plain_blocks
from runner_service.models.failures import UNREADABLE, StreamBrokenError, protocol_error, reported_error
from runner_service.models.incremental_fold import IncrementalFold
from runner_service.models.json_values import encoded
from runner_service.models.sse import MAX_EVENT_BYTES, require_few_values

_ROLES = {HumanMessage: "user", SystemMessage: "system", AIMessage: "assistant", ToolMessage: "tool"}


class OllamaMessages(NamedTuple):
    """A JSON array of messages; `characters` are those of the same in ASCII."""

    data: bytes
    characters: int


def ollama_messages(messages: Sequence[BaseMessage]) -> OllamaMessages:
    """Converts messages whose calls and results are paired (`history.repair`), each once in a conversation."""
    known = _conversation(messages)
    return OllamaMessages(b"[" + b",".join(known.messages) + b"]", known.characters)


@dataclass
class _Conversation:
    messages: list[bytes] = field(default_factory=list)
    characters: int = 0

    def add(self, message: BaseMessage) -> None:
        """Converts a message."""
        converted = _converted(message)
        self.messages.append(encoded(converted))
        self.characters += len(json.dumps(converted, default=str))


_conversation = IncrementalFold(_Conversation, _Conversation.add)


def _converted(message: BaseMessage) -> dict[str, Any]:
    blocks = plain_blocks(message.content)
    texts = [each if isinstance(each, str) else f"[{each.description}]" for each in blocks]
    converted: dict[str, Any] = {"role": _ROLES[type(message)], "content": "\n".join(texts)}
    if images := [each.data for each in blocks if isinstance(each, Image)]:
        converted["images"] = images
    if isinstance(message, AIMessage) and message.tool_calls:
        calls = ({"name": call["name"], "arguments": call["args"]} for call in message.tool_calls)
        converted["tool_calls"] = [{"function": call} for call in calls]
        if reasoning := message.additional_kwargs.get("reasoning_content"):
            converted["thinking"] = reasoning
    if isinstance(message, ToolMessage):
        converted["tool_name"] = message.name or ""
    return converted


async def read_answer(response: httpx.Response) -> AnswerBuilder:
    """Reads a whole answer, one JSON object a line; text is delivered as it comes.

    Raises:
        ProviderError, ConversationTooLongError: Ollama sent an error.
        StreamBrokenError: it sent what is no answer, or only a part of one.
        httpx.RequestError: the connection broke.
    """
    answer, is_done, unread = AnswerBuilder(), False, bytearray()
    async for chunk in response.aiter_bytes():
        unread += chunk
        if len(unread) > MAX_EVENT_BYTES:
            raise StreamBrokenError(f"the provider sent a line of more than {MAX_EVENT_BYTES:,} bytes")
        for line in _whole_lines(unread):
            await require_few_values(line)
            is_done |= _add_line(answer, line)
        await answer.deliver()
    await require_few_values(unread)
    is_done |= _add_line(answer, bytes(unread))
    await answer.deliver()
    if not is_done:
        raise StreamBrokenError("the provider's stream ended before the message was complete")
    return answer


def _whole_lines(unread: bytearray) -> Iterator[bytes]:
    """Takes the complete lines from the buffer."""
    end = unread.rfind(b"\n") + 1
    lines = bytes(unread[:end]).splitlines()
    del unread[:end]
    yield from lines


def _add_line(answer: AnswerBuilder, line: bytes) -> bool:
    """Adds a line; returns whether it was the last one."""
    if not line.strip():
        return False
    try:
        part = orjson.loads(line)
        if part.get("error"):
            raise reported_error(part)
        return _add_part(answer, part)
    except UNREADABLE as error:
        raise protocol_error(error, line) from error


def _add_part(answer: AnswerBuilder, part: Mapping[str, Any]) -> bool:
    message = part.get("message") or {}
    answer.add_text(message.get("content") or "", message.get("thinking") or "")
    for call in message.get("tool_calls") or ():
        function = call["function"]
        answer.begin_call(call_id=call.get("id"), name=function.get("name"), arguments=function.get("arguments"))
    if not part.get("done"):
        return False
    answer.stop_reason = part.get("done_reason") or "stop"
    answer.add_usage(input_tokens=part.get("prompt_eval_count"), output_tokens=part.get("eval_count"))
    return True
