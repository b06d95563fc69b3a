"""Assembles a model's answer from the stream of any provider."""

import json
import re
from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import orjson
from langchain_core.messages import AIMessage, ToolCall
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata

from runner_service.models.endings import Ending, ending_of
from runner_service.models.failures import StreamBrokenError
from runner_service.models.json_values import ObjectReader
from runner_service.models.tool_arguments import parse_arguments

MAX_MESSAGE_SIZE = 8 * 1024 * 1024
"""Limit of one answer in characters, its tool calls included."""

TextListener = Callable[[str, str], Awaitable[None]]
"""Receives the next text and reasoning; both are empty when the provider only shows that it is alive.

What it raises ends the model call.
"""

current_text_listener: ContextVar[TextListener | None] = ContextVar("text_listener", default=None)
"""The listener of the current model call. None: the call is a summary, which nobody sees."""

ENDING = "ending"
"""The key of an answer's `Ending`, by name, in its message's `response_metadata`."""

_MAX_TOOL_CALLS = 256
_MAX_NAME_CHARACTERS = 64
_MAX_PART_CHARACTERS = 1024  # of an id, a name as it was sent, and a stop reason
_NAMESPACE = re.compile(r"^(?:functions|tools|default_api|tool)[.:](?=\w)")
_SPECIAL_TOKEN = re.compile(r"<\|.*$", re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")
_HIGH_SURROGATE = re.compile("[\ud800-\udbff]$")
_NOT_NAME = re.compile(r"[^A-Za-z0-9_-]")


@dataclass
class _Call:
    """A tool call while it is streamed."""

    id: str = ""
    name: str = ""
    arguments: list[str] = field(default_factory=list)
    _reader: ObjectReader = field(default_factory=ObjectReader)
    _read_parts: int = 0

    def is_followed_by(self, call_id: str, name: str, *, keyed: bool) -> bool:
        """Whether a part with this id and name begins another call."""
        if not name:
            return False
        if call_id and self.id:
            return call_id != self.id
        return not keyed and self._is_whole()

    def replace_arguments(self, text: str) -> None:
        """Sets the arguments, which are whole."""
        self.arguments, self._reader, self._read_parts = [text], ObjectReader(), 0

    def _is_whole(self) -> bool:
        # Each part is read once: a provider may send one with a name, which asks for this, a million times.
        for part in self.arguments[self._read_parts :]:
            self._reader.feed(part)
        self._read_parts = len(self.arguments)
        return bool(self.arguments) and self.arguments[-1].rstrip().endswith("}") and self._reader.has_ended


class _SurrogateJoiner:
    """Joins surrogate pairs that were split over two parts of a text; replaces lone halves."""

    def __init__(self) -> None:
        self._held = ""

    def feed(self, text: str) -> str:
        if not self._held and (text.isascii() or not _SURROGATE.search(text)):
            return text
        text = self._held + text
        self._held = text[-1] if _HIGH_SURROGATE.search(text) else ""
        text = text[:-1] if self._held else text
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class AnswerBuilder:
    """Takes text, reasoning, tool calls, usage and the stop reason in any order; delivers text as it comes."""

    def __init__(self) -> None:
        self._listener = current_text_listener.get()
        self._text: list[str] = []
        self._reasoning: list[str] = []
        self._undelivered: list[tuple[str, str]] = []
        self._calls: list[_Call] = []
        self._by_key: dict[object, _Call] = {}
        self._size = 0
        self._joiners = _SurrogateJoiner(), _SurrogateJoiner()
        self._usage: dict[str, int] = {}
        self.stop_reason = ""
        self.is_refusal = False
        """Whether the text is the model's refusal, whatever the stop reason."""
        self.message_fields: dict[str, Any] = {}
        """Fields of the provider's message to send back with it."""

    def add_text(self, text: str, reasoning: str = "") -> None:
        """Adds text and reasoning; delivered by the next `deliver`. Raises StreamBrokenError above the limit."""
        self._grow(len(text) + len(reasoning))
        text, reasoning = self._joiners[0].feed(text), self._joiners[1].feed(reasoning)
        if text:
            self._text.append(text)
        if reasoning:
            self._reasoning.append(reasoning)
        last_text, last_reasoning = self._undelivered[-1] if self._undelivered else ("", "")
        if self._undelivered and not (reasoning and last_text):
            self._undelivered[-1] = (last_text + text, last_reasoning + reasoning)
        elif text or reasoning:
            self._undelivered.append((text, reasoning))

    async def deliver(self) -> None:
        """Passes what was added to the listener; without anything, that the provider is alive."""
        undelivered, self._undelivered = self._undelivered or [("", "")], []
        if self._listener:
            for text, reasoning in undelivered:
                await self._listener(text, reasoning)

    def add_call(self, key: object, *, call_id: object = None, name: object = None, arguments: object = None) -> None:
        """Adds a part of a tool call.

        `key` is what the provider tells calls apart by: an index, or None. Providers omit it, use one for several
        calls, repeat name and id in each part, or give a new id to each part: another id *and* a name begin a call.
        `arguments` that are an object are whole.

        Raises:
            StreamBrokenError: above the limits.
        """
        call = self._find_call(key, _short(call_id), _short(name))
        self._add_arguments(call, arguments)

    def begin_call(self, *, call_id: object = None, name: object = None, arguments: object = None) -> None:
        """Adds a whole tool call. Raises StreamBrokenError above the limits."""
        self._add_arguments(self._append_call(_short(call_id), _short(name)), arguments)

    def _add_arguments(self, call: _Call, arguments: object) -> None:
        if isinstance(arguments, str):
            self._grow(len(arguments) + 1)
            call.arguments += [arguments] if arguments else []
        elif arguments is not None:
            call.replace_arguments(json.dumps(arguments))
            self._grow(len(call.arguments[0]))

    def add_kept(self, name: str, values: list[Any]) -> None:
        """Adds to a list of values that the provider wants back with the message. StreamBrokenError above the limit."""
        self._grow(sum(len(orjson.dumps(each)) for each in values))
        self.message_fields.setdefault(name, []).extend(values)

    def add_block(self, block: Mapping[str, Any]) -> None:
        """Counts a block that is kept elsewhere. Raises StreamBrokenError above the limit."""
        self._grow(len(orjson.dumps(block)))

    def add_usage(self, *, input_tokens: object, output_tokens: object, cached_tokens: object = 0) -> None:
        """Adds the usage so far: providers repeat it, cumulatively, in each chunk."""
        counts = {"input": input_tokens, "output": output_tokens, "cached": cached_tokens}
        for kind, count in counts.items():
            if isinstance(count, int | float) and count > 0:
                self._usage[kind] = max(self._usage.get(kind, 0), int(count))

    @property
    def is_empty(self) -> bool:
        """Whether there is neither text nor a tool call."""
        return not self._calls and not "".join(self._text).strip()

    async def message(self, provider: str, content: list[str | dict[str, Any]] | None = None) -> AIMessage:
        """Returns the message. `content` replaces the text where the provider's blocks must be kept."""
        text, reasoning = "".join(self._text), "".join(self._reasoning)
        calls: list[ToolCall] = [
            {
                "name": tool_name(call.name),
                "args": await parse_arguments("".join(call.arguments)),
                "id": call.id,
                "type": "tool_call",
            }
            for call in self._calls
        ]
        stop_reason = "refusal" if self.is_refusal else _short(self.stop_reason)
        ending = ending_of(stop_reason, has_text=bool(text.strip()), has_calls=bool(calls))
        fields = {"reasoning_content": reasoning} if reasoning and content is None else {}
        return AIMessage(
            content=text if content is None else content,
            additional_kwargs={**fields, **self.message_fields},
            response_metadata={"finish_reason": stop_reason, "model_provider": provider, ENDING: ending.name},
            tool_calls=calls,
            usage_metadata=self._usage_metadata(),
        )

    def _find_call(self, key: object, call_id: str, name: str) -> _Call:
        last = self._calls[-1] if self._calls else None
        call = last if key is None else self._by_key.get(key)
        if call is None or call.is_followed_by(call_id, name, keyed=key is not None):
            call = self._append_call(call_id, name)
        elif name and name != call.name and not call.arguments:
            call.name = (call.name + name)[:_MAX_PART_CHARACTERS]  # streamed in parts
        call.id = call.id or call_id
        if key is not None:
            self._by_key[key] = call
        return call

    def _append_call(self, call_id: str, name: str) -> _Call:
        if len(self._calls) >= _MAX_TOOL_CALLS:
            raise StreamBrokenError(f"the model's message has more than {_MAX_TOOL_CALLS} tool calls")
        self._calls.append(_Call(call_id, name))
        return self._calls[-1]

    def _grow(self, size: int) -> None:
        self._size += size
        if self._size > MAX_MESSAGE_SIZE:
            raise StreamBrokenError(f"the model's message has more than {MAX_MESSAGE_SIZE:,} characters")

    def _usage_metadata(self) -> UsageMetadata | None:
        if not self._usage:
            return None
        sent, written = self._usage.get("input", 0), self._usage.get("output", 0)
        details = InputTokenDetails(cache_read=self._usage.get("cached", 0))
        return UsageMetadata(
            input_tokens=sent, output_tokens=written, total_tokens=sent + written, input_token_details=details
        )


def _short(value: object) -> str:
    return str(value or "")[:_MAX_PART_CHARACTERS]


def tool_name(name: str) -> str:
    """Returns a name that every provider accepts: without the namespace and special tokens that models add."""
    plain = _NOT_NAME.sub("_", _SPECIAL_TOKEN.sub("", _NAMESPACE.sub("", name.strip())))
    return plain[:_MAX_NAME_CHARACTERS] or "unknown"


def ending(message: AIMessage) -> Ending:
    """Returns how an answer has ended."""
    name = message.response_metadata.get(ENDING)
    return Ending[name] if name else Ending.ANSWERED


def text_in(content: object, kinds: Mapping[str, str]) -> str:
    """Returns the text of a content that is a string or a list of typed parts; `kinds` maps a type to its field."""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = [each for each in content if isinstance(each, dict) and each.get("type") in kinds]
    return "".join(text_in(each.get(kinds[each["type"]]), {"text": "text"}) for each in parts)
