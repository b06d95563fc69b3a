"""A provider of models on this machine: speaks the streams of OpenAI, Anthropic and Ollama, and costs next to nothing.

The first message of the user says what is answered: `{"tokens": N, "gap": SECONDS, "steps": N}`. A request that holds
fewer than `steps` answers of the model is answered by N tokens and a call of `ls`, the next one by N tokens alone.
Each token is written by itself, as providers do, `gap` seconds after the one before.
"""

import argparse
import asyncio
import json
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import uvloop

from benchmarks.processes import say_ready


class _Dialect(NamedTuple):
    """The bytes of an answer: before its tokens, each of them, and behind them with or without the call of a tool."""

    head: bytes
    first: bytes
    token: bytes
    last: bytes
    tool_call: Callable[[int], bytes]


def _head(kind: str) -> bytes:
    return f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ntransfer-encoding: chunked\r\n\r\n".encode()


def _event(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    chunk = {
        "id": "chatcmpl-0123456789abcdef",
        "object": "chat.completion.chunk",
        "created": 1_760_000_000,
        "model": "measured",
        "system_fingerprint": "fp_0123456789",
        "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}],
        **more,
    }
    return _http_chunk(b"data: " + json.dumps(chunk).encode() + b"\n\n")


def _http_chunk(data: bytes) -> bytes:
    return f"{len(data):x}\r\n".encode() + data + b"\r\n"


_FIRST = _event({"role": "assistant", "content": ""})
_TOKEN = _event({"content": " token"})
_USAGE = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
_END = _event({}, choices=[], usage=_USAGE) + _http_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"
_LAST = _event({}, "stop") + _END


def _tool_call(number: int) -> bytes:
    function = {"name": "ls", "arguments": '{"path": "/"}'}
    call = {"index": 0, "id": f"call-{number}", "type": "function", "function": function}
    return _event({"tool_calls": [call]}) + _event({}, "tool_calls") + _END


_OPENAI = _Dialect(_head("text/event-stream"), _FIRST, _TOKEN, _LAST, _tool_call)


def _anthropic(kind: str, **fields: Any) -> bytes:
    return _http_chunk(f"event: {kind}\ndata: {json.dumps({'type': kind, **fields})}\n\n".encode())


def _anthropic_end(reason: str) -> bytes:
    delta = {"stop_reason": reason, "stop_sequence": None}
    ends = _anthropic("message_delta", delta=delta, usage={"output_tokens": 100}) + _anthropic("message_stop")
    return ends + b"0\r\n\r\n"


def _anthropic_call(number: int) -> bytes:
    block = {"type": "tool_use", "id": f"toolu_{number}", "name": "ls", "input": {}}
    delta = {"type": "input_json_delta", "partial_json": '{"path": "/"}'}
    return (
        _anthropic("content_block_stop", index=0)
        + _anthropic("content_block_start", index=1, content_block=block)
        + _anthropic("content_block_delta", index=1, delta=delta)
        + _anthropic("content_block_stop", index=1)
        + _anthropic_end("tool_use")
    )


_MESSAGE: dict[str, Any] = {
    "id": "msg_0123456789",
    "type": "message",
    "role": "assistant",
    "model": "claude-measured",
    "content": [],
    "stop_reason": None,
    "stop_sequence": None,
    "usage": {"input_tokens": 1000, "output_tokens": 1},
}
_ANTHROPIC = _Dialect(
    _head("text/event-stream"),
    _anthropic("message_start", message=_MESSAGE)
    + _anthropic("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    _anthropic("content_block_delta", index=0, delta={"type": "text_delta", "text": " token"}),
    _anthropic("content_block_stop", index=0) + _anthropic_end("end_turn"),
    _anthropic_call,
)


def _ollama(message: dict[str, Any], **fields: Any) -> bytes:
    chunk = {
        "model": "measured",
        "created_at": "2026-01-01T00:00:00.123456789Z",
        "message": {"role": "assistant", "content": "", **message},
        "done": False,
        **fields,
    }
    return _http_chunk(json.dumps(chunk).encode() + b"\n")


_OLLAMA_END = _ollama({}, done=True, done_reason="stop", prompt_eval_count=1000, eval_count=100) + b"0\r\n\r\n"
_OLLAMA = _Dialect(
    _head("application/x-ndjson"),
    b"",
    _ollama({"content": " token"}),
    _OLLAMA_END,
    lambda _: _ollama({"tool_calls": [{"function": {"name": "ls", "arguments": {"path": "/"}}}]}) + _OLLAMA_END,
)
_DIALECTS = {b"/v1/messages": _ANTHROPIC, b"/api/chat": _OLLAMA}


class _Connection:
    """One connection of a client, request after request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def serve(self) -> None:
        """Answers until the client has left."""
        try:
            while True:
                path, body = await self._request()
                await self._answer(_DIALECTS.get(path.partition(b"?")[0], _OPENAI), json.loads(body))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writer.close()

    async def _request(self) -> tuple[bytes, bytes]:
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
        )
        return head.split(b" ", 2)[1], await self._reader.readexactly(length)

    async def _answer(self, dialect: _Dialect, request: dict[str, Any]) -> None:
        messages = request["messages"]
        asked = json.loads(next(_text(each) for each in messages if each["role"] == "user"))
        answers = sum(each["role"] == "assistant" for each in messages)
        self._writer.write(dialect.head + dialect.first)
        due = time.monotonic()
        for _ in range(asked["tokens"]):
            due += asked["gap"]
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self._writer.write(dialect.token)
            await self._writer.drain()
        self._writer.write(dialect.tool_call(answers) if answers < asked["steps"] else dialect.last)
        await self._writer.drain()


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


async def _serve(ready_fd: int) -> None:
    server = await asyncio.start_server(lambda reader, writer: _Connection(reader, writer).serve(), "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    say_ready(ready_fd, f"http://{host}:{port}")
    await server.serve_forever()


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ready-fd", type=int, required=True)
    uvloop.run(_serve(parser.parse_args().ready_fd))


if __name__ == "__main__":
    _main()
