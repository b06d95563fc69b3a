"""The stream of OpenAI's client as plain dicts.

The client makes typed objects of each chunk, which LangChain turns back into dicts: more than half of what a token
costs on its way through the service. The client's own `post`, its way to call what it has no method for, makes the same
request over the same connections, with the same key and the same errors; only its body is read here. Half of the rest
were LangChain's own objects, so a chunk that is nothing but words is told to the listener and not given to LangChain.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Any, Self

import httpx2
import orjson
from openai import APIConnectionError, APIError, APITimeoutError, AsyncOpenAI, AsyncStream

from runner_service.models.text_callbacks import TextDelivery

MAX_EVENT_BYTES = 8 * 1024 * 1024
"""How many bytes a provider may send without ending an event."""

Chunk = dict[str, Any]

_UNDERSTOOD_BY_THE_CLIENT_ALONE = frozenset({"extra_headers", "extra_query", "extra_body", "timeout"})
_ROLES = ("assistant", None, "")
_DRAIN_TIMEOUT_SECONDS = 0.1


class RawCompletions:
    """Stands where LangChain expects `client.chat.completions`; streams are `RawStream`s."""

    def __init__(self, client: AsyncOpenAI) -> None:
        self._client = client
        self._typed = client.chat.completions
        self.with_raw_response = self._typed.with_raw_response

    async def create(self, **request: Any) -> Any:
        """Asks for an answer. Raises the client's errors."""
        if not request.get("stream") or _UNDERSTOOD_BY_THE_CLIENT_ALONE & request.keys():
            return await self._typed.create(**request)
        stream = await self._client.post(
            "/chat/completions", body=request, cast_to=object, stream=True, stream_cls=AsyncStream[object]
        )
        return RawStream(stream.response)


class Words(dict[str, Any]):
    """A chunk of nothing but words, which were told already."""


class RawStream:
    """The chunks of an answer. Words are told as they come, and are one chunk when something else follows them."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response
        self._telling = TextDelivery()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._response.aclose()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        """Gives the chunks.

        Raises:
            APIConnectionError, APITimeoutError: the connection broke, or nothing came.
            APIError: the provider sent an error instead of a chunk.
            ValueError: it sent what is no chunk.
        """
        request = self._response.request
        try:
            async with aclosing(self._response.aiter_bytes()) as pieces:
                async for chunk in self._chunks(pieces):
                    yield chunk
        except httpx2.TimeoutException as error:
            raise APITimeoutError(request=request) from error
        except httpx2.RequestError as error:
            raise APIConnectionError(request=request) from error

    async def _chunks(self, pieces: AsyncIterator[bytes]) -> AsyncIterator[Chunk]:
        events = SseDecoder()
        async for piece in pieces:
            for data in events.feed(piece):
                if data.startswith(b"[DONE]"):
                    if words := await self._words():
                        yield words
                    await _drain(pieces)
                    return
                chunk = self._parse(data)
                said = words_of(chunk)
                if said and self._telling.take(*said):
                    continue
                if words := await self._words():
                    yield words
                yield chunk
            await self._telling.tell()
        if words := await self._words():
            yield words

    async def _words(self) -> Words | None:
        """What was told, as a chunk."""
        await self._telling.tell()
        told = self._telling.told()
        if told is None:
            return None
        return Words(choices=[{"index": 0, "delta": {"content": told[0], "reasoning_content": told[1]}}])

    def _parse(self, data: bytes) -> Chunk:
        chunk = orjson.loads(data)
        if not isinstance(chunk, dict):
            raise ValueError("a chunk is not an object")  # noqa: TRY004  # what was sent has the wrong type, not an argument
        if error := chunk.get("error"):
            message = error.get("message") if isinstance(error, dict) else None
            text = message if isinstance(message, str) and message else "the provider sent an error in its stream"
            raise APIError(text, request=self._response.request, body=error)
        return chunk


class SseDecoder:
    """Reads server-sent events, however they are cut."""

    def __init__(self) -> None:
        self._unread: list[bytes] = []
        self._size = 0
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """Takes the next bytes; returns the data of each event that is complete. Raises ValueError: it has no end."""
        self._unread.append(piece)
        self._size += len(piece)
        if self._size > MAX_EVENT_BYTES:
            raise ValueError("an event has no end")
        if b"\n" not in piece and b"\r" not in piece:
            return []
        unread = b"".join(self._unread)
        if unread.endswith(b"\r"):  # perhaps half of a line's end
            self._unread = [unread]
            return []
        lines = unread.splitlines()  # of bytes: at these two characters alone
        rest = b"" if unread.endswith(b"\n") else lines.pop()
        self._unread = [rest]
        complete: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            elif not line and self._data:
                complete.append(b"\n".join(self._data))
                self._data.clear()
        if complete:
            self._size = len(rest)
        return complete


def words_of(chunk: Chunk) -> tuple[str, str] | None:
    """Returns the text and the reasoning of a chunk; None if it holds anything else that somebody looks at."""
    choices = chunk.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or chunk.get("usage"):
        return None
    choice: Chunk = choices[0]
    delta = choice.get("delta")
    if not isinstance(delta, dict) or choice.get("finish_reason") or choice.get("logprobs"):
        return None
    text = delta.get("content") or ""
    if delta.get("tool_calls") or delta.get("function_call") or delta.get("id") or not isinstance(text, str):
        return None
    return (text, reasoning_of(delta)) if delta.get("role", "assistant") in _ROLES else None


def reasoning_of(delta: Chunk) -> str:
    """Returns what many compatible servers (vLLM, DeepSeek, OpenRouter, …) send as reasoning beside the text."""
    reasoning = delta.get("reasoning_content") or delta.get("reasoning")
    return reasoning if isinstance(reasoning, str) else ""


async def _drain(pieces: AsyncIterator[bytes]) -> None:
    """Reads what may follow the end, so that the connection can be used again."""
    with suppress(TimeoutError, httpx2.RequestError):
        async with asyncio.timeout(_DRAIN_TIMEOUT_SECONDS):
            async for _ in pieces:
                pass
