"""Reads answers of Anthropic's Messages API."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

import httpx2
import orjson

from runner_service.models.answer import AnswerBuilder
from runner_service.models.failure_texts import provider_words
from runner_service.models.failures import UNREADABLE, StreamBrokenError, protocol_error, reported_error
from runner_service.models.sse import SseDecoder, require_few_values

Event = Mapping[str, Any]

_EVENTS_PER_PAUSE = 256
_MAX_SHOWN_BYTES = 2000  # of what is no stream at all
_KEPT_BLOCKS = frozenset({"thinking", "redacted_thinking"})
"""Blocks that Anthropic wants back with the message, unchanged."""


class AnthropicAnswer:
    """An answer while it is read. Blocks may begin in any order, or without `content_block_start`."""

    def __init__(self) -> None:
        self.builder = AnswerBuilder()
        self._blocks: dict[int, dict[str, Any]] = {}
        self._parts: dict[int, list[str]] = defaultdict(list)
        self._is_done = False

    async def read(self, response: httpx2.Response) -> None:
        """Reads a whole answer; text is delivered as it comes.

        Raises:
            ProviderError, ConversationTooLongError: the provider sent an error.
            StreamBrokenError: it sent what is no answer, or only a part of one.
            httpx2.RequestError: the connection broke.
        """
        decoder = SseDecoder()
        received = bytearray()
        try:
            async with aclosing(response.aiter_bytes()) as chunks:
                async for chunk in chunks:
                    received += chunk[: max(0, _MAX_SHOWN_BYTES - len(received))]
                    await self._add_events(decoder.feed(chunk))
                    await self.builder.deliver()
            await self._add_events(decoder.finish())
            await self.builder.deliver()
        finally:
            await response.aclose()
        if not self._is_done and not self.builder.stop_reason:
            began = bool(self._blocks) or received.lstrip().startswith((b"event:", b"data:"))
            words = "the provider's stream ended before the message was complete"
            raise StreamBrokenError(
                words if began else f"the provider sent no message: {provider_words(bytes(received))}"
            )

    @property
    def content(self) -> list[str | dict[str, Any]] | None:
        """The blocks in order, if any of them must be kept; tool calls are beside them."""
        if not any(block["type"] in _KEPT_BLOCKS for block in self._blocks.values()):
            return None
        blocks = [self._whole(index, block) for index, block in sorted(self._blocks.items())]
        return [each for each in blocks if each["type"] != "tool_use" and (each["type"] != "text" or each["text"])]

    async def _add_events(self, events: list[bytes]) -> None:
        for count, data in enumerate(events, 1):
            await require_few_values(data)
            try:
                event = orjson.loads(data)
                self._add_event(event)
            except UNREADABLE as error:
                raise protocol_error(error, data) from error
            if not count % _EVENTS_PER_PAUSE:
                await asyncio.sleep(0)

    def _add_event(self, event: Event) -> None:
        match event.get("type"):
            case "error":
                raise reported_error(event)
            case "message_start":
                self._add_usage(event["message"].get("usage"))
            case "content_block_start":
                self._start_block(event["index"], event["content_block"])
            case "content_block_delta":
                self._add_delta(event["index"], event["delta"])
            case "message_delta":
                self.builder.stop_reason = event["delta"].get("stop_reason") or self.builder.stop_reason
                self._add_usage(event.get("usage"))
            case "message_stop":
                self._is_done = True

    def _whole(self, index: int, block: dict[str, Any]) -> dict[str, Any]:
        kind = block["type"]
        return {**block, kind: "".join(self._parts[index])} if kind in {"text", "thinking"} else block

    def _start_block(self, index: int, block: Event) -> None:
        self.builder.add_block(block)
        self._blocks[index] = dict(block)
        if block["type"] in {"text", "thinking"}:
            self._add_words(index, block["type"], block.get(block["type"]) or "")
        elif block["type"] == "tool_use":
            arguments = block.get("input") or None
            self.builder.add_call(index, call_id=block.get("id"), name=block.get("name"), arguments=arguments)

    def _add_delta(self, index: int, delta: Event) -> None:
        match delta["type"]:
            case "text_delta" | "thinking_delta" as kind:
                kind = kind.removesuffix("_delta")
                self._blocks.setdefault(index, {"type": kind})
                self._add_words(index, kind, delta[kind])
            case "signature_delta":
                self._blocks[index]["signature"] = delta["signature"]
            case "input_json_delta":
                self.builder.add_call(index, arguments=delta["partial_json"])

    def _add_words(self, index: int, kind: str, words: str) -> None:
        if words:
            self._parts[index].append(words)
        self.builder.add_text(*((words, "") if kind == "text" else ("", words)))

    def _add_usage(self, usage: Event | None) -> None:
        if usage:
            cached = usage.get("cache_read_input_tokens") or 0
            created = usage.get("cache_creation_input_tokens") or 0
            self.builder.add_usage(
                input_tokens=(usage.get("input_tokens") or 0) + cached + created,
                output_tokens=usage.get("output_tokens"),
                cached_tokens=cached,
            )
