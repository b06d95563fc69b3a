"""Our MCP server over HTTP, in this process, with a note of what it was asked with."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from mcp.server.fastmcp import FastMCP


@asynccontextmanager
async def served_over_http(port: int, seen: list[tuple[str, str]]) -> AsyncIterator[str]:
    """Serves; gives the address. `seen` gets the path with its query and the header `X-Key` of each request."""
    server = FastMCP("web", log_level="ERROR")
    server.add_tool(add)
    inner: Any = server.streamable_http_app()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            headers = dict(scope["headers"])
            seen.append((f"{scope['path']}?{scope['query_string'].decode()}", headers.get(b"x-key", b"").decode()))
        await inner(scope, receive, send)

    async with _serving(app, port) as url:
        yield url


@asynccontextmanager
async def failing_once(port: int, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> AsyncIterator[str]:
    """Serves `add`, whose first call is answered with this status."""
    server = FastMCP("moody", log_level="ERROR")
    server.add_tool(add)
    inner: Any = server.streamable_http_app()
    failed = False

    async def app(scope: Any, receive: Any, send: Any) -> None:
        nonlocal failed
        message = await receive() if scope["type"] == "http" else {}
        if failed or b"tools/call" not in message.get("body", b""):
            await inner(scope, _again(message, receive) if message else receive, send)
            return
        failed = True
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async with _serving(app, port) as url:
        yield url


@asynccontextmanager
async def answering(port: int, body: Iterable[bytes], *headers: tuple[bytes, bytes]) -> AsyncIterator[str]:
    """Serves one tool, `answer`, whose calls are answered so, whatever it means; `@ID@` is the request's."""
    server = FastMCP("strange", log_level="ERROR", json_response=True)
    server.add_tool(answer, structured_output=False)
    inner: Any = server.streamable_http_app()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive() if scope["type"] == "http" else {}
        if b"tools/call" not in message.get("body", b""):
            await inner(scope, _again(message, receive) if message else receive, send)
            return
        request_id = str(json.loads(message["body"])["id"]).encode()
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for part in body:
            await send({"type": "http.response.body", "body": part.replace(b"@ID@", request_id), "more_body": True})
        await send({"type": "http.response.body"})

    async with _serving(app, port) as url:
        yield url


@asynccontextmanager
async def silent_about(port: int, method: str) -> AsyncIterator[str]:
    """Serves one tool, `answer`, and never answers requests of one method."""
    server = FastMCP("silent", log_level="ERROR", json_response=True)
    server.add_tool(answer, structured_output=False)
    inner: Any = server.streamable_http_app()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        message = await receive() if scope["type"] == "http" else {}
        if f'"{method}"'.encode() in message.get("body", b""):
            await receive()  # until the client has left
            return
        await inner(scope, _again(message, receive) if message else receive, send)

    async with _serving(app, port) as url:
        yield url


def _again(message: Any, receive: Any) -> Any:
    messages = [message]

    async def replay() -> Any:
        return messages.pop() if messages else await receive()

    return replay


@asynccontextmanager
async def _serving(app: Any, port: int) -> AsyncIterator[str]:
    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", lifespan="on", ws="none")
    running = uvicorn.Server(config)
    running.capture_signals = _nothing  # type: ignore[method-assign]  # signals are the test's
    task = asyncio.create_task(running.serve())
    async with asyncio.timeout(60):
        while not running.started:
            await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        running.should_exit = running.force_exit = True
        for connection in [*running.server_state.connections]:
            connection.transport.abort()  # since Python 3.12 a server waits for its connections
        await task


def answer() -> str:
    """Never asked."""
    raise AssertionError


def add(a: int, b: int) -> str:
    """Adds two numbers."""
    return f"the sum is {a + b}"


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()
