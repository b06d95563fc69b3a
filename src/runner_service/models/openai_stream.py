"""Reads answers of OpenAI's chat completions, as OpenAI and its many imitators send them.

The quirks that are accepted, each with a file of bytes in tests/models/streams:

- tool calls without `index`, all with one index, with a new id in each part, with arguments as an object, or in the
  legacy field `function_call` (`AnswerBuilder.add_call`);
- usage repeated in each chunk, or under `x_groq`;
- reasoning as `reasoning_content`, `reasoning`, or typed parts of `content`; a refusal beside the content;
- a whole completion, or an error, as JSON instead of a stream; an error inside of the stream;
- comments as signs of life, any line ends, a last event without its blank line, `[DONE]` without `finish_reason`.
"""

import asyncio
import codecs
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing, suppress
from typing import Any

import httpx2
import orjson

from runner_service.models.answer import AnswerBuilder, text_in
from runner_service.models.failure_texts import provider_words
from runner_service.models.failures import UNREADABLE, StreamBrokenError, reported_error
from runner_service.models.sse import MAX_EVENT_BYTES, SseDecoder, require_few_values

Chunk = Mapping[str, Any]

_DRAIN_TIMEOUT_SECONDS = 0.1
_CALLS_PER_PAUSE = 256  # of tool calls' parts that came together: then the event loop has its turn
_TEXT_PARTS = {"text": "text", "output_text": "text", "refusal": "refusal"}
_REASONING_PARTS = {"thinking": "thinking", "reasoning": "text"}
_KEPT_FIELDS = ("reasoning_details",)
"""Fields of a message that the provider wants back with it, unchanged."""


async def read_answer(response: httpx2.Response) -> AnswerBuilder:
    """Reads a whole answer; text is delivered as it comes.

    Raises:
        ProviderError, ConversationTooLongError: the provider sent an error.
        StreamBrokenError: it sent what is no answer, or only a part of one.
        httpx2.RequestError: the connection broke.
    """
    reader = _Reader()
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        async with aclosing(response.aiter_bytes()) as chunks:
            if kind in {"text/event-stream", ""} or not kind.startswith(("application/json", "text/")):
                await reader.read_stream(chunks)
            else:
                await reader.read_document(chunks, kind)
    finally:
        await response.aclose()
    return reader.answer


class _Reader:
    def __init__(self) -> None:
        self.answer = AnswerBuilder()
        self._is_done = False

    async def read_stream(self, chunks: AsyncIterator[bytes]) -> None:
        events = SseDecoder()
        async for chunk in chunks:
            await self._add_events(events.feed(chunk))
            await self.answer.deliver()
            if self._is_done:
                await _drain(chunks)
                break
        else:
            await self._add_events(events.finish())
            await self.answer.deliver()
        if not self._is_done and not self.answer.stop_reason:
            raise StreamBrokenError("the provider's stream ended before the message was complete")

    async def read_document(self, chunks: AsyncIterator[bytes], kind: str) -> None:
        body = bytearray()
        async for chunk in chunks:
            body += chunk
            if len(body) > MAX_EVENT_BYTES:
                raise StreamBrokenError(f"the provider's answer has more than {MAX_EVENT_BYTES:,} bytes")
        if body.lstrip().startswith((b"data:", b":", b"event:")):  # a stream under a wrong name
            return await self.read_stream(_once(bytes(body)))
        if kind != "application/json":
            raise StreamBrokenError(f"the provider answered with {kind}: {provider_words(bytes(body))}")
        await require_few_values(bytes(body))
        self._add_event(bytes(body))
        await self.answer.deliver()
        if not self.answer.stop_reason and self.answer.is_empty:
            raise StreamBrokenError(f"the provider sent no message of its model: {provider_words(bytes(body))}")
        return None

    async def _add_events(self, events: list[bytes]) -> None:
        for count, data in enumerate(events, 1):
            if data.startswith(b"[DONE]"):
                self._is_done = True
                return
            if data.strip():
                await require_few_values(data)
                self._add_event(data)
            if not count % _CALLS_PER_PAUSE:
                await asyncio.sleep(0)

    def _add_event(self, data: bytes) -> None:
        try:
            chunk = _parsed(data)
            if chunk.get("error"):
                raise reported_error(chunk)
            self._add_chunk(chunk)
        except UNREADABLE as error:
            text = (
                f"the provider sent what its protocol does not allow ({type(error).__name__}): {provider_words(data)}"
            )
            raise StreamBrokenError(text) from error

    def _add_chunk(self, chunk: Chunk) -> None:
        self._add_usage(chunk.get("usage") or (chunk.get("x_groq") or {}).get("usage"))
        for choice in (chunk.get("choices") or [])[:1]:
            if choice.get("error"):
                raise reported_error(choice)
            self._add_delta(choice.get("delta") or choice.get("message") or {})
            self.answer.stop_reason = choice.get("finish_reason") or self.answer.stop_reason
            self._add_usage(choice.get("usage"))

    def _add_delta(self, delta: Chunk) -> None:
        content = delta.get("content")
        text = text_in(content, _TEXT_PARTS) + text_in(delta.get("refusal"), {})
        reasoning = delta.get("reasoning_content") or delta.get("reasoning")
        self.answer.add_text(text, text_in(reasoning, _REASONING_PARTS) + text_in_parts(content))
        self.answer.is_refusal |= bool(delta.get("refusal"))
        for part in delta.get("tool_calls") or ():
            function = part.get("function") or {}
            self.answer.add_call(
                part.get("index"),
                call_id=part.get("id"),
                name=function.get("name"),
                arguments=function.get("arguments"),
            )
        if legacy := delta.get("function_call"):
            self.answer.add_call("function_call", name=legacy.get("name"), arguments=legacy.get("arguments"))
        for name in _KEPT_FIELDS:
            if isinstance(details := delta.get(name), list):
                self.answer.add_kept(name, details)

    def _add_usage(self, usage: Chunk | None) -> None:
        if usage:
            details = usage.get("prompt_tokens_details") or {}
            self.answer.add_usage(
                input_tokens=usage.get("prompt_tokens"),
                output_tokens=usage.get("completion_tokens"),
                cached_tokens=details.get("cached_tokens") or usage.get("prompt_cache_hit_tokens"),
            )


def text_in_parts(content: object) -> str:
    """Returns the reasoning in a content of typed parts; a string has none."""
    return text_in(content, _REASONING_PARTS) if isinstance(content, list) else ""


def _parsed(data: bytes) -> dict[str, Any]:
    """Parses a chunk. Raises ValueError: it is no object."""
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:
        chunk = _parsed_leniently(data)
    if isinstance(chunk, list) and len(chunk) == 1:  # as Gemini wraps its errors
        chunk = chunk[0]
    if not isinstance(chunk, dict):
        raise ValueError("a chunk is not an object")  # noqa: TRY004  # the value that was sent has the wrong type
    return chunk


def _parsed_leniently(data: bytes) -> Any:
    """Parses what orjson refuses: NaN, halves of surrogate pairs, bytes that are not UTF-8."""
    return json.loads(codecs.decode(data, "utf-8", "replace"))


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


async def _drain(chunks: AsyncIterator[bytes]) -> None:
    """Reads what may follow the end, so that the connection can be reused."""
    with suppress(TimeoutError, httpx2.RequestError):
        async with asyncio.timeout(_DRAIN_TIMEOUT_SECONDS):
            async for _ in chunks:
                pass
