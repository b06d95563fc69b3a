"""A provider of models on loopback: says over real HTTP what a test tells it to say."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Reply:
    """What is answered to one request. `dies` cuts the connection in the middle of the body."""

    status: int = 200
    body: Iterable[bytes] = ()
    headers: dict[str, str] = field(default_factory=dict)
    dies: bool = False


@dataclass
class Provider:
    """The provider while it serves. `requests` are the bodies it got, `authorizations` the headers with keys."""

    base_url: str
    replies: list[Reply]
    requests: list[dict[str, Any]] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)


@asynccontextmanager
async def serving_provider(*replies: Reply) -> AsyncIterator[Provider]:
    """Serves the replies one after the other."""
    provider = Provider("", list(replies))

    serving: set[asyncio.Task[None] | None] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.current_task())
        try:
            while await _answer(provider, reader, writer):
                pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    provider.base_url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield provider
    finally:
        server.close()
        for task in filter(None, serving):
            task.cancel()
        await asyncio.gather(*filter(None, serving), return_exceptions=True)
        await asyncio.sleep(0)  # in which the connections close


async def _answer(provider: Provider, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Answers one request; False when the connection is over."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return False
    headers = {
        name.lower(): value for name, _, value in (line.partition(": ") for line in head.decode().split("\r\n")[1:])
    }
    provider.requests.append(json.loads(await reader.readexactly(int(headers.get("content-length", 0)))))
    provider.authorizations.append(headers.get("authorization") or headers.get("x-api-key") or "")
    reply = provider.replies.pop(0)
    more = {"content-type": "text/event-stream", **reply.headers, "transfer-encoding": "chunked"}
    lines = [f"HTTP/1.1 {reply.status} Said", *(f"{name}: {value}" for name, value in more.items()), "", ""]
    writer.write("\r\n".join(lines).encode())
    for part in reply.body:
        writer.write(b"%x\r\n%s\r\n" % (len(part), part))
        try:
            await writer.drain()
        except ConnectionError:  # it has read enough
            return False
    if reply.dies:
        return False
    writer.write(b"0\r\n\r\n")
    await writer.drain()
    return True


def error(status: int, message: str, **headers: str) -> Reply:
    """An error as OpenAI and those like it send it."""
    body = json.dumps({"error": {"message": message, "type": "error"}}).encode()
    return Reply(status, [body], {"content-type": "application/json", **headers})


def completion(*deltas: dict[str, Any], finish: str = "stop", usage: Sequence[int] = (7, 3)) -> Reply:
    """A streamed chat completion."""
    said = [chunk(delta) for delta in deltas]
    return Reply(body=[*said, chunk({}, finish), usage_chunk(*usage), b"data: [DONE]\n\n"])


def chunk(delta: dict[str, Any], finish: str | None = None) -> bytes:
    """One piece of a chat completion."""
    choice = {"index": 0, "delta": {"role": "assistant", **delta}, "finish_reason": finish}
    return _event({"choices": [choice]})


def usage_chunk(sent: int, written: int) -> bytes:
    """The last piece of a chat completion, with the tokens."""
    usage = {"prompt_tokens": sent, "completion_tokens": written, "total_tokens": sent + written}
    return _event({"choices": [], "usage": {**usage, "prompt_tokens_details": {"cached_tokens": 2}}})


def call_delta(index: int, arguments: str, *, name: str | None = None, call_id: str | None = None) -> dict[str, Any]:
    """A piece of a tool call."""
    function = {"arguments": arguments} | ({"name": name} if name else {})
    call = {"index": index, "function": function} | ({"id": call_id, "type": "function"} if call_id else {})
    return {"tool_calls": [call]}


def _event(data: dict[str, Any]) -> bytes:
    whole = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "tester", **data}
    return b"data: %s\n\n" % json.dumps(whole).encode()
