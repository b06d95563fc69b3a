"""A provider of models on this machine: speaks OpenAI's chat completions, streamed, and costs next to nothing.

The first message of the user says what is answered: `{"tokens": N, "gap": SECONDS, "steps": N}`. A request that holds
fewer than `steps` answers of the model is answered by N tokens and a call of `ls`, the next one by N tokens alone.
Each token is written by itself, as providers do, `gap` seconds after the one before.
"""

import argparse
import asyncio
import json
import time
from typing import Any

import uvloop

from benchmarks.processes import say_ready

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


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


class _Connection:
    """One connection of a client, request after request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def serve(self) -> None:
        """Answers until the client has left."""
        try:
            while (body := await self._request()) is not None:
                await self._answer(json.loads(body))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._writer.close()

    async def _request(self) -> bytes | None:
        head = await self._reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
        )
        return await self._reader.readexactly(length)

    async def _answer(self, request: dict[str, Any]) -> None:
        messages = request["messages"]
        asked = json.loads(next(_text(each) for each in messages if each["role"] == "user"))
        answers = sum(each["role"] == "assistant" for each in messages)
        self._writer.write(_HEAD + _FIRST)
        due = time.monotonic()
        for _ in range(asked["tokens"]):
            due += asked["gap"]
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            self._writer.write(_TOKEN)
            await self._writer.drain()
        self._writer.write(_tool_call(answers) if answers < asked["steps"] else _LAST)
        await self._writer.drain()


def _text(message: dict[str, Any]) -> str:
    content = message["content"]
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


async def _serve(ready_fd: int) -> None:
    server = await asyncio.start_server(lambda reader, writer: _Connection(reader, writer).serve(), "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()[:2]
    say_ready(ready_fd, f"http://{host}:{port}/v1")
    await server.serve_forever()


def _main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--ready-fd", type=int, required=True)
    uvloop.run(_serve(parser.parse_args().ready_fd))


if __name__ == "__main__":
    _main()
