"""Limits what MCP servers answer over HTTP, before the MCP client parses it."""

import asyncio
import json
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import count
from secrets import token_hex
from typing import NamedTuple

import anyio
import httpx
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from mcp.shared.message import SessionMessage
from mcp.types import JSONRPCMessage, JSONRPCResponse

from runner_service.agent.mcp.messages import MAX_MESSAGE_BYTES, MessageLimitError, MessageParser
from runner_service.models.failure_texts import provider_words

Received = MemoryObjectReceiveStream[SessionMessage | Exception]

_JSON, _EVENTS = "application/json", "text/event-stream"
_END_OF_EVENT = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")
_LINE_END = re.compile(rb"\r\n|\n|\r")
_MAX_END_BYTES = 4
_MAX_ERROR_BYTES = 16 * 1024
_SERVER_ERROR = -32000
_MAX_REPARSED_BYTES = 16 * 1024


class HttpLimits:
    """The limits of one connection. After a `MessageLimitError` every request fails with it.

    Messages are parsed here, off the event loop. The MCP client parses again, on the loop: of a large message it gets a
    reference, which `resolved` replaces.
    """

    def __init__(self) -> None:
        self.parser = MessageParser()
        self.fault = ""
        self.session_lost = False
        """Whether the server has answered that it does not know the session."""
        self._key = f"reference-{token_hex(8)}"
        self._numbers = count()
        self._messages: dict[int, JSONRPCMessage] = {}

    async def limit_response(self, response: httpx.Response) -> None:
        """Wraps the body of a response; a bad one becomes a JSON-RPC error.

        The MCP session would otherwise wait for its response until the timeout.
        """
        if not isinstance(response.stream, httpx.AsyncByteStream):
            return
        if response.status_code >= httpx.codes.BAD_REQUEST and _request_id(response.request) is not None:
            await self._take_failure(response, response.stream)
            return
        kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
        response.stream = body = _Body(response.stream, response.request, self, is_events=kind == _EVENTS)
        if (encoding := response.headers.pop("content-encoding", "identity")) != "identity":
            body.fault = f"it answered compressed ({encoding}), which it was not asked for"
        elif kind not in {_JSON, _EVENTS} and response.status_code == httpx.codes.OK:
            response.headers["content-type"] = _JSON
            body.fault = f"it answered with {kind or 'something unknown'} instead of JSON or events"

    async def _take_failure(self, response: httpx.Response, stream: httpx.AsyncByteStream) -> None:
        """Makes an error status the failure of its request alone: the MCP client would close the connection."""
        body = await _beginning(stream)
        status, response.status_code = response.status_code, httpx.codes.OK
        self.session_lost |= status == httpx.codes.NOT_FOUND and "mcp-session-id" in response.request.headers
        response.headers["content-type"] = _JSON
        for name in ("content-encoding", "content-length", "transfer-encoding"):
            response.headers.pop(name, None)
        response.stream = failed = _Body(stream, response.request, self, is_events=False)
        failed.fault = self.fault or f"it answered with HTTP {status}: {provider_words(body)}"

    def reference(self, message: JSONRPCMessage, text: bytes) -> bytes:
        """Returns JSON for the MCP client to parse: the text of a small message, a reference to a large one."""
        if not isinstance(message.root, JSONRPCResponse) or len(text) <= _MAX_REPARSED_BYTES:
            is_plain = text.isascii() and b"\\ud" not in text.lower()
            return text if is_plain else message.model_dump_json(by_alias=True, exclude_none=True).encode()
        number = next(self._numbers)
        self._messages[number] = message
        return json.dumps({"jsonrpc": "2.0", "id": message.root.id, "result": {self._key: number}}).encode()

    @asynccontextmanager
    async def resolved(self, received: Received) -> AsyncIterator[Received]:
        """Forwards what the MCP client received, with references replaced by their messages."""
        to_session, resolved = anyio.create_memory_object_stream[SessionMessage | Exception](0)
        forwarding = asyncio.create_task(self._forward(received, to_session), name="mcp-http-messages")
        try:
            yield resolved
        finally:
            forwarding.cancel()
            await asyncio.wait([forwarding])
            resolved.close()

    async def _forward(
        self, received: Received, to_session: MemoryObjectSendStream[SessionMessage | Exception]
    ) -> None:
        with received, to_session, suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
            async for each in received:
                await to_session.send(each if isinstance(each, Exception) else self._resolve(each))

    def _resolve(self, received: SessionMessage) -> SessionMessage:
        reference = received.message.root
        if not isinstance(reference, JSONRPCResponse):
            return received
        message = self._messages.pop(reference.result.get(self._key, -1), None)
        if message is None or not isinstance(message.root, JSONRPCResponse):
            return received
        message.root.id = reference.id
        return SessionMessage(message, received.metadata)


class _Event(NamedTuple):
    """A server-sent event."""

    kind: bytes
    data: bytes
    others: tuple[bytes, ...]

    @classmethod
    def parse(cls, text: bytes) -> "_Event":
        fields = [line.partition(b":") for line in _LINE_END.split(text)]
        values = [(name, value.removeprefix(b" ")) for name, _, value in fields]
        data = b"\n".join(value for name, value in values if name == b"data")
        kinds = [value for name, value in values if name == b"event"]
        others = tuple(b"%b: %b" % each for each in values if each[0] in {b"id", b"retry"})
        return cls(kinds[-1] if kinds else b"message", data, others)


class _Body(httpx.AsyncByteStream):
    """The body of a response, message by message; a `fault` is sent as an error instead."""

    def __init__(self, body: httpx.AsyncByteStream, request: httpx.Request, limits: HttpLimits, *, is_events: bool):
        self._body = body
        self._request = request
        self._limits = limits
        self._is_events = is_events
        self.fault = limits.fault

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self.fault:
            yield self._error_response(self.fault)
            return
        try:
            async for part in self._events() if self._is_events else self._message():
                yield part
        except MessageLimitError as fault:
            self._limits.fault = f"it {fault}"
            yield self._error_response(self._limits.fault)

    async def aclose(self) -> None:
        await self._body.aclose()

    async def _events(self) -> AsyncIterator[bytes]:
        held = bytearray()
        async for data in self._body:
            searched = max(0, len(held) - _MAX_END_BYTES)
            held += data
            start = 0
            for found in _END_OF_EVENT.finditer(held, searched):
                yield await self._checked_event(bytes(held[start : found.end()]))
                start = found.end()
            del held[:start]
            _check_size(held)

    async def _checked_event(self, text: bytes) -> bytes:
        """Returns the event as it may be passed on; nothing if it is no message."""
        event = _Event.parse(text)
        if event.kind != b"message" or not event.data:  # without data it may carry an id, for resuming
            self._limits.parser.count_message()
            return b"" if event.data else text
        message = await self._limits.parser.parse(event.data)
        if message is None:
            return b""
        return b"\n".join([*event.others, b"data: " + self._limits.reference(message, event.data), b"", b""])

    async def _message(self) -> AsyncIterator[bytes]:
        held = bytearray()
        async for data in self._body:
            held += data
            _check_size(held)
        if not held:
            return
        message = await self._limits.parser.parse(bytes(held))
        if message is None:
            yield self._error_response("it answered with something that is no message")
        else:
            yield self._limits.reference(message, bytes(held))

    def _error_response(self, fault: str) -> bytes:
        """Returns a JSON-RPC error response. Raises ReadError when the request has no id."""
        request_id = _request_id(self._request)
        if request_id is None:
            raise httpx.ReadError(fault)
        error = {"code": _SERVER_ERROR, "message": fault}
        text = json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error})
        return (f"event: message\ndata: {text}\n\n" if self._is_events else text).encode()


async def _beginning(stream: httpx.AsyncByteStream) -> bytes:
    """The beginning of the body of an error."""
    held = bytearray()
    with suppress(httpx.HTTPError):
        async for data in stream:
            held += data
            if len(held) > _MAX_ERROR_BYTES:
                break
    return bytes(held[:_MAX_ERROR_BYTES])


def _check_size(held: bytearray) -> None:
    if len(held) > MAX_MESSAGE_BYTES:
        raise MessageLimitError(f"answered with more than {MAX_MESSAGE_BYTES:,} bytes")


def _request_id(request: httpx.Request) -> object:
    """Returns the JSON-RPC id in an HTTP request; None without one."""
    return json.loads(request.content).get("id") if request.method == "POST" else None
