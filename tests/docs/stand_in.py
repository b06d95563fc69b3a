"""Stands in for the providers that the pages name: answers whoever speaks one of their protocols, over real HTTP."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.agent.provider import completion
from tests.agent.test_other_providers import anthropic_message, ollama_answer

ANSWER = "There is nothing in it yet."

_TEXT_BLOCK = {"start": {"type": "text", "text": ""}, "deltas": [{"type": "text_delta", "text": ANSWER}]}
_REPLIES = {
    "/chat/completions": completion({"content": ANSWER}),
    "/messages": anthropic_message(_TEXT_BLOCK),
    "/api/chat": ollama_answer({"content": ANSWER}),
}


@asynccontextmanager
async def standing_in() -> AsyncIterator[int]:
    """Serves on a free port of loopback, and yields it."""
    server = await asyncio.start_server(_serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    path = head.split()[1].partition("?")[0]
    length = next(int(line[15:]) for line in head.lower().splitlines() if line.startswith("content-length:"))
    assert json.loads(await reader.readexactly(length))["stream"]
    reply = next(reply for suffix, reply in _REPLIES.items() if path.endswith(suffix))
    headers = {"content-type": "text/event-stream", **reply.headers, "connection": "close"}
    lines = ["HTTP/1.1 200 OK", *(f"{name}: {value}" for name, value in headers.items()), "", ""]
    writer.write("\r\n".join(lines).encode() + b"".join(reply.body))
    await writer.drain()
    writer.close()
