"""The code that runs for each token, chunk or message, by itself. `instructions` runs it as a program: NAME COUNT."""

import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

_CHUNK = b'data: {"id":"c","model":"m","choices":[{"index":0,"delta":{"content":" token"}}]}\n\n'
_LAST = b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\ndata: [DONE]\n\n'
_ANTHROPIC_CHUNK = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":" token"}}\n\n'
)
_ANTHROPIC_LAST = b'event: message_stop\ndata: {"type":"message_stop"}\n\n'
_OLLAMA_CHUNK = b'{"model":"m","message":{"role":"assistant","content":" token"},"done":false}\n'
_OLLAMA_LAST = b'{"model":"m","message":{"role":"assistant","content":""},"done":true}\n'


def event(count: int) -> None:
    """An event becomes bytes for the log and the wire."""
    from runner_service.storage.frames import TextFramer
    from runner_service.v1 import execution_event_pb2 as event_pb2

    framer = TextFramer("measured", event_pb2.TextDelta, "msg-1")
    for number in range(count):
        framer.frame(number, " token")


def chunk(count: int) -> None:
    """A token is read from OpenAI's stream, and handed on."""
    import httpx2

    from runner_service.models.openai_stream import read_answer

    headers = {"content-type": "text/event-stream"}
    _read(lambda: read_answer(httpx2.Response(200, headers=headers, content=_body(_CHUNK, count, _LAST))))


def anthropic_chunk(count: int) -> None:
    """The same, of Anthropic's."""
    import httpx2

    from runner_service.models.anthropic_stream import AnthropicAnswer

    _read(lambda: AnthropicAnswer().read(httpx2.Response(200, content=_body(_ANTHROPIC_CHUNK, count, _ANTHROPIC_LAST))))


def ollama_chunk(count: int) -> None:
    """The same, of Ollama's."""
    import httpx

    from runner_service.models.ollama_stream import read_answer

    _read(lambda: read_answer(httpx.Response(200, content=_body(_OLLAMA_CHUNK, count, _OLLAMA_LAST))))


def _read(read: Callable[[], Awaitable[object]]) -> None:
    from runner_service.models.answer import current_text_listener

    async def listen(text: str, reasoning: str) -> None:
        """Takes it."""

    async def main() -> None:
        current_text_listener.set(listen)
        await read()

    asyncio.run(main())


async def _body(chunk: bytes, count: int, last: bytes) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield chunk
    yield last


def redaction(count: int) -> None:
    """A token passes the redactor, with ten secrets in force."""
    from runner_service.redaction import Redactor

    stream = Redactor([f"secret-{number}-{'x' * 24}" for number in range(10)]).text_stream()
    for _ in range(count):
        stream.feed(" token")


def known_message(count: int) -> None:
    """A message that the model was sent before is part of the next request."""
    from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

    from runner_service.models.history import repair
    from runner_service.models.openai_messages import openai_messages

    messages: list[BaseMessage] = [HumanMessage("Go.")]
    for number in range(100):
        call = {"name": "ls", "args": {"path": "/"}, "id": f"c{number}", "type": "tool_call"}
        messages += [AIMessage("", tool_calls=[call]), ToolMessage("a", name="ls", tool_call_id=f"c{number}")]
    for _ in range(count // len(messages)):
        openai_messages(repair(messages).messages)


PATHS: dict[str, Callable[[int], None]] = {
    "event": event,
    "chunk": chunk,
    "anthropic_chunk": anthropic_chunk,
    "ollama_chunk": ollama_chunk,
    "redaction": redaction,
    "known_message": known_message,
}

if __name__ == "__main__":
    PATHS[sys.argv[1]](int(sys.argv[2]))
