"""Streams of OpenAI's client as plain dicts, over real connections."""

import json
import random
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from openai import APIConnectionError, APIError, APITimeoutError
from pydantic import SecretStr
from tests.agent.provider import Reply, serving_provider

from runner_service.models import ModelChoice
from runner_service.models.connections import shared_connections
from runner_service.models.openai import make_model
from runner_service.models.openai_chunks import LONGEST_EVENT, EventReader, PlainCompletions

EVENTS = (
    b": hello\r\ndata: one\r\n\r\ndata:two\n\ndata: three\ndata: more\n\nevent: x\r\rdata: four\r\rdata: [DONE]\n\n"
)
DONE = b"data: [DONE]\n\n"


def test_events_are_read_however_they_are_cut() -> None:
    cut = random.Random(0)
    for _ in range(200):
        reader, found, position = EventReader(), [], 0
        while position < len(EVENTS):
            piece = EVENTS[position : position + cut.randint(1, 9)]
            found += reader.feed(piece)
            position += len(piece)
        assert found == [b"one", b"two", b"three\nmore", b"four", b"[DONE]"]


def test_an_event_without_an_end_is_refused() -> None:
    reader = EventReader()
    reader.feed(b"x" * LONGEST_EVENT)
    with pytest.raises(ValueError, match="no end"):
        reader.feed(b"x")


@asynccontextmanager
async def clients(*replies: Reply, count: int = 1) -> AsyncIterator[list[PlainCompletions]]:
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


async def chunks_of(client: PlainCompletions) -> list[dict[str, Any]]:
    async with await client.create(model="m", messages=[], stream=True) as stream:
        return [chunk async for chunk in stream]


async def test_text_that_arrives_together_is_one_chunk_and_everything_else_stays() -> None:
    call = delta(tool_calls=[{"index": 0, "id": "c", "function": {"name": "ls", "arguments": "{}"}}])
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    body = sse(
        delta(role="assistant", content=""), delta(content="a"), delta(content="b"), call, delta(content="c"), end
    )
    async with clients(reply(body + DONE)) as (client,):
        assert await chunks_of(client) == [
            delta(role="assistant", content="ab"),
            call,
            delta(content="c"),
            end,
        ]


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
        assert await chunks_of(client) == [delta(content="a")]


async def test_models_share_their_connections() -> None:
    async with clients(reply(DONE), reply(DONE), count=2) as (one, other):
        assert one._client._client is other._client._client
        assert await chunks_of(one) == await chunks_of(other) == []
