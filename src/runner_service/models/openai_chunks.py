"""The stream of OpenAI's client as plain dicts.

The client makes typed objects of each chunk, which LangChain turns back into dicts: more than half of what a token
costs on its way through the service. The client's own `post`, its way to call what it has no method for, makes the same
request over the same connections, with the same key and the same errors; only its body is read here.
"""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import aclosing, suppress
from types import TracebackType
from typing import Any, Self

import httpx2
import orjson
from openai import APIConnectionError, APIError, APITimeoutError, AsyncOpenAI, AsyncStream

LONGEST_EVENT = 8 * 1024 * 1024
"""How many bytes a provider may send without ending an event."""

Chunk = dict[str, Any]

_UNDERSTOOD_BY_THE_CLIENT_ALONE = frozenset({"extra_headers", "extra_query", "extra_body", "timeout"})
_LINE_END = re.compile(rb"\r\n|\n|\r")
_TEXT_FIELDS = frozenset({"content", "role"})
_DRAIN_SECONDS = 0.1


class PlainCompletions:
    """Stands where LangChain expects `client.chat.completions`; streams are `PlainStream`s."""

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
        return PlainStream(stream.response)


class PlainStream:
    """The chunks of an answer. Pieces of text that arrived together are one chunk."""

    def __init__(self, response: httpx2.Response) -> None:
        self._response = response

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._response.aclose()

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        """Gives the chunks as they come.

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
        events = EventReader()
        async for piece in pieces:
            last: Chunk | None = None
            for data in events.feed(piece):
                if data.startswith(b"[DONE]"):
                    if last:
                        yield last
                    await _drain(pieces)
                    return
                chunk = self._parse(data)
                if last and not _join(last, chunk):
                    yield last
                    last = chunk
                elif not last:
                    last = chunk
            if last:
                yield last

    def _parse(self, data: bytes) -> Chunk:
        chunk = orjson.loads(data)
        if not isinstance(chunk, dict):
            raise ValueError("a chunk is not an object")  # noqa: TRY004  # what was sent has the wrong type, not an argument
        if error := chunk.get("error"):
            message = error.get("message") if isinstance(error, dict) else None
            text = message if isinstance(message, str) and message else "the provider sent an error in its stream"
            raise APIError(text, request=self._response.request, body=error)
        return chunk


class EventReader:
    """Reads server-sent events, however they are cut."""

    def __init__(self) -> None:
        self._unread: list[bytes] = []
        self._size = 0
        self._data: list[bytes] = []

    def feed(self, piece: bytes) -> list[bytes]:
        """Takes the next bytes; returns the data of each event that is complete. Raises ValueError: it has no end."""
        self._unread.append(piece)
        self._size += len(piece)
        if self._size > LONGEST_EVENT:
            raise ValueError("an event has no end")
        if not piece.endswith((b"\n", b"\r")) and not _LINE_END.search(piece):
            return []
        unread = b"".join(self._unread)
        if unread.endswith(b"\r"):  # perhaps half of a line's end
            self._unread = [unread]
            return []
        *lines, rest = _LINE_END.split(unread)
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


def _join(first: Chunk, second: Chunk) -> bool:
    """Adds the text of the second chunk to the first, if text is all that either has to say."""
    old, new = _only_text(first), _only_text(second)
    if old is None or new is None:
        return False
    old["content"] += new["content"]
    return True


def _only_text(chunk: Chunk) -> Chunk | None:
    """Returns what holds the text, if the chunk holds nothing else that anybody looks at."""
    choices = chunk.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or chunk.get("usage"):
        return None
    choice: Chunk = choices[0]
    delta = choice.get("delta")
    if not isinstance(delta, dict) or choice.get("finish_reason") or choice.get("logprobs"):
        return None
    if not isinstance(delta.get("content"), str) or any(delta[name] for name in delta if name not in _TEXT_FIELDS):
        return None
    return delta


async def _drain(pieces: AsyncIterator[bytes]) -> None:
    """Reads what may follow the end, so that the connection can be used again."""
    with suppress(TimeoutError, httpx2.RequestError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            async for _ in pieces:
                pass
