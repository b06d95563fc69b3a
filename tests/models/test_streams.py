"""What providers send, byte for byte, and what is read from it.

Each file in `streams/<provider>/` is one quirk, its name says which; `<file>.expected.json` is what must come of it.
The bytes are written from descriptions of the quirks. Each is read whole, and cut into single bytes.
"""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import httpx2
import pytest
from langchain_core.exceptions import ModelError
from langchain_core.messages import AIMessage

from runner_service.models import ollama_stream, openai_stream
from runner_service.models.answer import current_text_listener, ending
from runner_service.models.anthropic_stream import AnthropicAnswer
from runner_service.models.failures import classify

STREAMS = Path(__file__).with_name("streams")
FILES = [each for each in sorted(STREAMS.glob("*/*")) if not each.name.endswith(".expected.json")]
CONTENT_TYPES = {".sse": "text/event-stream", ".ndjson": "application/x-ndjson", ".json": "application/json"}


async def read(file: Path, data: bytes, size: int) -> AIMessage:
    """Reads a file as an answer that comes in chunks of `size` bytes."""

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(data), size):
            yield data[start : start + size]

    headers = {"content-type": CONTENT_TYPES.get(file.suffix, "text/html; charset=utf-8")}
    if file.parent.name == "ollama":
        answer = await ollama_stream.read_answer(httpx.Response(200, headers=headers, content=chunks()))
        return await answer.message("ollama")
    response = httpx2.Response(200, headers=headers, content=chunks())
    if file.parent.name == "openai":
        return await (await openai_stream.read_answer(response)).message("openai")
    anthropic = AnthropicAnswer()
    await anthropic.read(response)
    return await anthropic.builder.message("anthropic", anthropic.content)


@pytest.fixture
def told() -> Iterator[list[tuple[str, str]]]:
    """What a listener is told."""
    heard: list[tuple[str, str]] = []

    async def listen(text: str, reasoning: str) -> None:
        heard.append((text, reasoning))

    token = current_text_listener.set(listen)
    yield heard
    current_text_listener.reset(token)


SIZES = pytest.mark.parametrize("size", [1, 1_000_000], ids=["byte by byte", "whole"])


def files(*, failing: bool) -> pytest.MarkDecorator:
    """The files that are answers, or those that are failures."""
    chosen = [each for each in FILES if ("error" in expected_of(each)) is failing]
    return pytest.mark.parametrize("file", chosen, ids=[f"{each.parent.name}/{each.name}" for each in chosen])


def expected_of(file: Path) -> dict[str, Any]:
    """What must come of a file."""
    expected: dict[str, Any] = json.loads(file.with_name(f"{file.name}.expected.json").read_text())
    return expected


@SIZES
@files(failing=False)
async def test_a_quirk_is_read_as_it_is_meant(file: Path, size: int, told: list[tuple[str, str]]) -> None:
    expected = expected_of(file)

    message = await read(file, file.read_bytes(), size)  # noqa: ASYNC240  # a small local file

    assert message.text == expected.get("text", "")
    assert "".join(text for text, _ in told) == message.text
    if "reasoning" in expected:
        assert "".join(reasoning for _, reasoning in told) == expected["reasoning"]
    calls = [{"name": call["name"], "args": call["args"], "id": call["id"]} for call in message.tool_calls]
    assert calls == expected.get("calls", [])
    assert ending(message).name == expected.get("ending", "CALLS_TOOLS" if calls else "ANSWERED")
    if "content" in expected:
        assert message.content == expected["content"]
    if "usage" in expected:
        usage = message.usage_metadata
        assert usage
        cached = usage["input_token_details"]["cache_read"]
        assert [usage["input_tokens"], usage["output_tokens"], cached] == expected["usage"]


@SIZES
@files(failing=True)
async def test_a_failure_is_told_by_its_kind_in_the_providers_words(file: Path, size: int) -> None:
    expected = expected_of(file)

    with pytest.raises(ModelError) as raised:
        await read(file, file.read_bytes(), size)  # noqa: ASYNC240  # a small local file

    failure = classify(raised.value)
    assert failure
    assert failure.kind == expected["error"]
    assert expected["words"] in failure.text
