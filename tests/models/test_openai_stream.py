"""Answers of OpenAI's protocol over real connections."""

import asyncio
import json
import random
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from tests.agent.provider import Reply, serving_provider

from runner_service.models import ModelChoice
from runner_service.models.answer import current_text_listener
from runner_service.models.connections import shared_connections
from runner_service.models.failures import StreamBrokenError
from runner_service.models.openai import make_model
from runner_service.models.sse import MAX_EVENT_BYTES, SseDecoder
from runner_service.settings import SecretStr

EVENTS = (
    b": hello\r\ndata: one\r\n\r\ndata:two\n\ndata: three\ndata: more\n\nevent: x\r\rdata: four\r\rdata: [DONE]\n\n"
)
DONE = b"data: [DONE]\n\n"


def test_events_are_read_however_they_are_cut() -> None:
    cut = random.Random(0)
    for _ in range(200):
        reader, found, position = SseDecoder(), [], 0
        while position < len(EVENTS):
            piece = EVENTS[position : position + cut.randint(1, 9)]
            found += reader.feed(piece)
            position += len(piece)
        assert found == [b"one", b"two", b"three\nmore", b"four", b"[DONE]"]


def test_an_event_without_an_end_is_refused() -> None:
    reader = SseDecoder()
    reader.feed(b"x" * MAX_EVENT_BYTES)
    with pytest.raises(StreamBrokenError, match="more than"):
        reader.feed(b"x")


@asynccontextmanager
async def models(*replies: Reply, count: int = 1) -> AsyncIterator[list[BaseChatModel]]:
    """Models of a provider that says these replies, made so often."""
    async with serving_provider(*replies) as provider, shared_connections() as connections:
        choice = ModelChoice(
            provider="openai",
            name="m",
            base_url=f"{provider.base_url}/v1",
            api_key=SecretStr("key"),
            temperature=None,
            max_output_tokens=0,
        )
        yield [make_model(choice, connections) for _ in range(count)]


def sse(*chunks: object) -> bytes:
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def reply(*pieces: bytes, dies: bool = False) -> Reply:
    return Reply(body=pieces, headers={"content-type": "text/event-stream"}, dies=dies)


END = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
CALL = delta(tool_calls=[{"index": 0, "id": "c", "function": {"name": "ls", "arguments": "{}"}}])


@pytest.fixture
def told() -> Iterator[list[tuple[str, str]]]:
    """What a listener is told."""
    heard: list[tuple[str, str]] = []

    async def listen(text: str, reasoning: str) -> None:
        if text or reasoning:
            heard.append((text, reasoning))

    token = current_text_listener.set(listen)
    yield heard
    current_text_listener.reset(token)


async def ask(model: BaseChatModel) -> BaseMessage:
    return await model.ainvoke("Hello?")


async def test_text_that_came_together_is_told_together_and_in_order(told: list[tuple[str, str]]) -> None:
    body = sse(
        delta(content=None, reasoning="Hm"), delta(reasoning_content="!"), delta(content="a"), delta(content="b")
    )
    thought = delta(reasoning_content="Oh")
    async with models(reply(body + sse(CALL, thought), sse(delta(content="c"), END) + DONE)) as (model,):
        await ask(model)
    assert told[0] == ("ab", "Hm!")
    assert "".join(text for text, _ in told) == "abc"
    assert [reasoning for _, reasoning in told if reasoning] == ["Hm!", "Oh"]


async def test_text_is_told_while_the_stream_goes_on(told: list[tuple[str, str]]) -> None:
    async with models(reply(sse(delta(content="a")), dies=True)) as (model,):
        with pytest.raises(httpx2.RequestError):
            await ask(model)
    assert told == [("a", "")]


async def test_a_stream_that_breaks_is_a_broken_connection_and_no_time_out(told: list[tuple[str, str]]) -> None:
    async with models(reply(sse(delta(content="a")), dies=True)) as (model,):
        with pytest.raises(httpx2.RequestError) as failure:
            await ask(model)
    assert told
    assert not isinstance(failure.value, httpx2.TimeoutException)


async def test_without_aiohttp_the_clients_own_connections_do(
    monkeypatch: pytest.MonkeyPatch, told: list[tuple[str, str]]
) -> None:
    monkeypatch.setitem(sys.modules, "runner_service.models.aiohttp_connections", None)
    async with models(reply(sse(delta(content="a"), END) + DONE)) as (model,):
        assert (await ask(model)).text == "a"
    assert told == [("a", "")]


async def test_models_share_their_connections(told: list[tuple[str, str]]) -> None:
    body = sse(delta(content="a"), END) + DONE
    async with models(reply(body), reply(body), count=2) as (one, other):
        assert one.root_async_client._client is other.root_async_client._client  # type: ignore[attr-defined]
        assert (await ask(one)).text == (await ask(other)).text == "a"
    assert told


async def test_a_call_in_many_pieces_takes_time_in_proportion_and_lets_others_run(told: list[tuple[str, str]]) -> None:
    """16,000 pieces at once took seconds in which nothing else happened; the other task runs between them."""
    text = json.dumps({"content": "x" * 16_000})
    parts = [delta(tool_calls=[{"index": 0, "function": {"arguments": each}}]) for each in text]
    begin = delta(tool_calls=[{"index": 0, "id": "c", "function": {"name": "write", "arguments": ""}}])
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    async with models(reply(sse(begin, *parts, END) + DONE)) as (model,):
        other = asyncio.create_task(others())
        message = await ask(model)
        other.cancel()
    assert isinstance(message, AIMessage)
    assert message.tool_calls[0]["args"] == {"content": "x" * 16_000}
    assert turns > 20
    assert not any(text for text, _ in told)


async def test_a_summary_that_is_empty_or_cut_short_is_not_taken() -> None:
    cut = {"choices": [{"index": 0, "delta": {"content": "The"}, "finish_reason": "length"}]}
    async with models(reply(sse(END) + DONE), reply(sse(cut) + DONE)) as (model,):
        for ending in ("failed", "cut_short"):
            with pytest.raises(StreamBrokenError, match=ending):
                await ask(model)
