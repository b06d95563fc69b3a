"""Streams of OpenAI's client as plain dicts, over real connections."""

import json
import random
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from openai import APIConnectionError, APIError, APITimeoutError
from pydantic import SecretStr
from tests.agent.provider import Reply, serving_provider

from runner_service.models import ModelChoice
from runner_service.models.connections import shared_connections
from runner_service.models.openai import make_model
from runner_service.models.openai_stream import MAX_EVENT_BYTES, RawCompletions, SseDecoder
from runner_service.models.text_callbacks import current_text_listener

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
    with pytest.raises(ValueError, match="no end"):
        reader.feed(b"x")


@asynccontextmanager
async def clients(*replies: Reply, count: int = 1) -> AsyncIterator[list[RawCompletions]]:
    """What LangChain is given to stream from a provider that says these replies, made so often."""
    async with serving_provider(*replies) as provider, shared_connections() as connections:
        choice = ModelChoice(
            provider="openai",
            name="m",
            base_url=f"{provider.base_url}/v1",
            api_key=SecretStr("key"),
            temperature=None,
            max_output_tokens=0,
        )
        made: list[Any] = [make_model(choice, connections) for _ in range(count)]
        yield [model.async_client for model in made]


def sse(*chunks: object) -> bytes:
    return b"".join(b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks)


def delta(**fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": None}]}


def reply(*pieces: bytes, dies: bool = False) -> Reply:
    return Reply(body=pieces, headers={"content-type": "text/event-stream"}, dies=dies)


async def chunks_of(client: RawCompletions) -> list[dict[str, Any]]:
    async with await client.create(model="m", messages=[], stream=True) as stream:
        return [chunk async for chunk in stream]


CALL = delta(tool_calls=[{"index": 0, "id": "c", "function": {"name": "ls", "arguments": "{}"}}])
END = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def words(text: str, reasoning: str = "") -> dict[str, Any]:
    """What comes out for chunks of nothing but words."""
    return {"choices": [{"index": 0, "delta": {"content": text, "reasoning_content": reasoning}}]}


@pytest.fixture
def told() -> Iterator[list[tuple[str, str]]]:
    """What a listener is told."""
    heard: list[tuple[str, str]] = []

    async def listen(text: str, reasoning: str) -> None:
        heard.append((text, reasoning))

    token = current_text_listener.set(listen)
    yield heard
    current_text_listener.reset(token)


async def test_words_are_one_chunk_and_everything_else_stays() -> None:
    first = delta(role="assistant", content="")
    body = sse(first, delta(content="a"), delta(content="b"), CALL, delta(content="c")), sse(delta(content="d"), END)
    async with clients(reply(*body, DONE)) as (client,):
        assert await chunks_of(client) == [words("ab"), CALL, words("cd"), END]


async def test_words_are_told_before_what_follows_them_and_together_if_they_came_together(
    told: list[tuple[str, str]],
) -> None:
    body = sse(
        delta(content=None, reasoning="Hm"), delta(reasoning_content="!"), delta(content="a"), delta(content="b")
    )
    async with (
        clients(reply(body + sse(CALL, delta(content="c")) + DONE)) as (client,),
        await client.create(model="m", messages=[], stream=True) as stream,
    ):
        heard_at = [(chunk, list(told)) async for chunk in stream]
    assert [chunk for chunk, _ in heard_at] == [words("ab", "Hm!"), CALL, words("c")]
    assert [len(heard) for _, heard in heard_at] == [1, 1, 2]
    assert told == [("ab", "Hm!"), ("c", "")]


async def test_words_are_told_while_the_stream_goes_on(told: list[tuple[str, str]]) -> None:
    async with clients(reply(sse(delta(content="a")), dies=True)) as (client,):
        with pytest.raises(APIConnectionError):
            await chunks_of(client)
    assert told == [("a", "")]


async def test_reasoning_after_text_keeps_its_place(told: list[tuple[str, str]]) -> None:
    thought = delta(reasoning_content="Hm")
    async with clients(reply(sse(delta(content="a"), thought, delta(content="b")) + DONE)) as (client,):
        assert await chunks_of(client) == [words("a"), thought, words("b")]
    assert told == [("a", ""), ("b", "")]  # what comes as it was is heard by LangChain's callback, in order


@pytest.mark.parametrize(
    "more", [{"role": "user"}, {"id": "x"}, {"function_call": {"name": "f"}}, {"content": [{"type": "text"}]}]
)
async def test_what_is_more_than_words_is_left_to_langchain(more: dict[str, Any], told: list[tuple[str, str]]) -> None:
    odd = delta(**{"content": "a", **more})
    counted = {**delta(content="b"), "usage": {"total_tokens": 1}}
    async with clients(reply(sse(odd, counted) + DONE)) as (client,):
        assert await chunks_of(client) == [odd, counted]
    assert told == []


async def test_an_error_in_the_stream_is_the_clients_error() -> None:
    body = sse(delta(content="a"), {"error": {"message": "overloaded", "code": "busy"}})
    async with clients(reply(body)) as (client,):
        with pytest.raises(APIError, match="overloaded"):
            await chunks_of(client)


async def test_a_stream_that_breaks_is_a_broken_connection_and_no_time_out() -> None:
    async with clients(reply(sse(delta(content="a")), dies=True)) as (client,):
        with pytest.raises(APIConnectionError) as failure:
            await chunks_of(client)
    assert not isinstance(failure.value, APITimeoutError)


async def test_an_endpoint_that_is_not_there_is_no_time_out() -> None:
    async with shared_connections() as connections:
        choice = ModelChoice(
            provider="openai",
            name="m",
            base_url="http://127.0.0.1:1/v1",
            api_key=SecretStr("key"),
            temperature=None,
            max_output_tokens=0,
        )
        made: Any = make_model(choice, connections)
        with pytest.raises(APIConnectionError) as failure:
            await chunks_of(made.async_client)
    assert not isinstance(failure.value, APITimeoutError)


async def test_without_aiohttp_the_clients_own_connections_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "runner_service.models.aiohttp_connections", None)
    async with clients(reply(sse(delta(content="a")) + DONE)) as (client,):
        assert await chunks_of(client) == [words("a")]


async def test_models_share_their_connections() -> None:
    async with clients(reply(DONE), reply(DONE), count=2) as (one, other):
        assert one._client._client is other._client._client
        assert await chunks_of(one) == await chunks_of(other) == []
