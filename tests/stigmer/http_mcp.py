"""Our MCP server over HTTP, in this process, with a note of what it was asked with."""

import asyncio
from collections.abc import AsyncIterator
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

    config = uvicorn.Config(app, host="127.0.0.1", port=port, log_level="error", lifespan="on", ws="none")
    running = uvicorn.Server(config)
    running.capture_signals = _nothing  # type: ignore[method-assign]  # signals are the test's
    task = asyncio.create_task(running.serve())
    async with asyncio.timeout(20):
        while not running.started:
            await asyncio.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        running.should_exit = running.force_exit = True
        await task


def add(a: int, b: int) -> str:
    """Adds two numbers."""
    return f"the sum is {a + b}"


def _nothing() -> Any:
    from contextlib import nullcontext

    return nullcontext()
