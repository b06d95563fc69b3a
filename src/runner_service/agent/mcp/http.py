"""Streamable HTTP transport for MCP servers, with bounded responses."""

import json
import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import httpx
from mcp.client.streamable_http import streamable_http_client

from runner_service.agent.mcp.placeholders import PLACEHOLDER
from runner_service.agent.mcp.stdio import MAX_MESSAGE_BYTES, Streams
from runner_service.v1 import agent_runner_pb2 as runner_pb2

_JSON, _EVENTS = "application/json", "text/event-stream"
_END_OF_EVENT = re.compile(rb"(?:\r\n|\n|\r(?!\n)){2}")
_MAX_END_BYTES = 4
_SERVER_ERROR = -32000


@asynccontextmanager
async def http_server(
    http: runner_pb2.HttpServer, environment: Mapping[str, str], timeout_seconds: float
) -> AsyncIterator[Streams]:
    """Opens the transport. A response may take `timeout_seconds`."""
    # The size of a compressed response is unbounded: it is not requested, and refused.
    headers = {"Accept-Encoding": "identity"}
    headers |= {name: _fill_placeholders(value, environment) for name, value in http.headers.items()}
    query = {name: _fill_placeholders(value, environment) for name, value in http.query.items()}
    async with (
        httpx.AsyncClient(
            headers=headers, timeout=httpx.Timeout(timeout_seconds), event_hooks={"response": [_limit_response]}
        ) as client,
        streamable_http_client(_with_query(http.url, query), http_client=client) as (read, write, _),
    ):
        yield Streams(read, write)


async def _limit_response(response: httpx.Response) -> None:
    """Replaces an oversized or unintelligible response by a JSON-RPC error.

    The MCP session would otherwise wait for its response until the timeout.
    """
    if not isinstance(response.stream, httpx.AsyncByteStream):
        return
    kind = response.headers.get("content-type", "").partition(";")[0].strip().lower()
    response.stream = body = _Body(response.stream, response.request, is_events=kind == _EVENTS)
    if (encoding := response.headers.pop("content-encoding", "identity")) != "identity":
        body.fault = f"it answered compressed ({encoding}), which it was not asked for"
    elif kind not in {_JSON, _EVENTS} and response.status_code == httpx.codes.OK:
        response.headers["content-type"] = _JSON
        body.fault = f"it answered with {kind or 'something unknown'} instead of JSON or events"


class _Body(httpx.AsyncByteStream):
    """The body of a response, message by message; a `fault` is sent as an error instead."""

    def __init__(self, body: httpx.AsyncByteStream, request: httpx.Request, *, is_events: bool) -> None:
        self._body = body
        self._request = request
        self._is_events = is_events
        self.fault = ""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self.fault:
            yield self._error_response(self.fault)
            return
        held = bytearray()
        async for data in self._body:
            searched = max(0, len(held) - _MAX_END_BYTES)
            held += data
            if self._is_events:
                ends = [found.end() for found in _END_OF_EVENT.finditer(held, searched)]
                yield bytes(held[: ends[-1] if ends else 0])
                del held[: ends[-1] if ends else 0]
            if len(held) > MAX_MESSAGE_BYTES:
                yield self._error_response(f"it answered with more than {MAX_MESSAGE_BYTES:,} bytes")
                return
        yield bytes(held)

    async def aclose(self) -> None:
        await self._body.aclose()

    def _error_response(self, fault: str) -> bytes:
        """Returns a JSON-RPC error response. Raises ReadError when the request has no id."""
        request_id = _request_id(self._request)
        if request_id is None:
            raise httpx.ReadError(fault)
        error = {"code": _SERVER_ERROR, "message": fault}
        text = json.dumps({"jsonrpc": "2.0", "id": request_id, "error": error})
        return (f"event: message\ndata: {text}\n\n" if self._is_events else text).encode()


def _request_id(request: httpx.Request) -> object:
    """Returns the JSON-RPC id in an HTTP request; None without one."""
    return json.loads(request.content).get("id") if request.method == "POST" else None


def _with_query(url: str, query: Mapping[str, str]) -> str:
    parts = urlsplit(url)
    return urlunsplit(
        parts._replace(query=urlencode([*parse_qsl(parts.query, keep_blank_values=True), *query.items()]))
    )


def _fill_placeholders(value: str, environment: Mapping[str, str]) -> str:
    return PLACEHOLDER.sub(lambda found: environment[found[1]], value)
