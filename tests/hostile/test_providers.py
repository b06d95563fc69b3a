"""Answers of providers that cost more to read than to send. The first was seen to freeze the service."""

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence

import pytest
from tests.agent.provider import Reply, serving_provider
from tests.hostile.conftest import Attack
from tests.running import StartService, one

from runner_service.v1 import agent_runner_pb2 as runner_pb2

TRIES = 4
PAGE = {"content-type": "text/html"}
JSON = {"content-type": "application/json"}


def call_part(arguments: str) -> bytes:
    """An event with a part of a tool call that repeats the name, and has neither index nor id."""
    call = {"function": {"name": "ls", "arguments": arguments}}
    return b"data: %s\n\n" % json.dumps({"choices": [{"delta": {"tool_calls": [call]}}]}).encode()


def name_parts(number: int) -> bytes:
    """An event with so many parts of one tool call's name."""
    parts = [{"index": 0, "function": {"name": f"{at:09}"}} for at in range(number)]
    return b"data: %s\n\n" % json.dumps({"choices": [{"delta": {"tool_calls": parts}}]}).encode()


REPLIES: dict[str, Callable[[], Reply]] = {
    # Looking for tags: where each begins, for its end.
    "a page of angle brackets": lambda: Reply(200, [b"<" * 100_000] * 20, PAGE),
    "a page of heads without an end": lambda: Reply(500, [b"<html>" + b"<head " * 15_000], PAGE),
    "an error of angle brackets": lambda: Reply(500, [json.dumps({"error": {"message": "<" * 90_000}}).encode()], JSON),
    "an event of angle brackets": lambda: Reply(200, [b"data: " + b"<" * 3_000_000 + b"\n\n"]),
    # Trying, after each part, whether the arguments are whole.
    "parts of a call that all seem to end it": lambda: Reply(200, [call_part('{"a":"'), *[call_part("}") * 1000] * 60]),
    # Joining a name from its parts.
    "a name in many parts": lambda: Reply(200, [name_parts(8000)] * 25),
}


def agent(provider: str) -> runner_pb2.Agent:
    """An agent of this provider's model."""
    return runner_pb2.Agent(name="tester", instructions="Do it.", model=runner_pb2.Model(provider=provider, name="m"))


@pytest.mark.long
@pytest.mark.parametrize("name", REPLIES)
async def test_a_provider_keeps_nobody_waiting(attack: Attack, name: str) -> None:
    replies: Sequence[Reply] = [REPLIES[name]() for _ in range(TRIES)]
    async with serving_provider(*replies) as provider:
        variables = {
            "STIGMER_LLM_PROVIDER": "openai",
            "STIGMER_LLM_BASE_URL": f"{provider.base_url}/v1",
            "STIGMER_LLM_API_KEY": "not-a-real-key",
        }
        fields = {"agent": agent("openai")}
        began = lambda event: 2 * event.HasField("started")  # noqa: E731  # it says nothing else
        async with attack([], until=began, fields=fields, others={"agent": agent("scripted")}, **variables) as target:
            async with asyncio.timeout(60):
                while not provider.requests:
                    await asyncio.sleep(0.01)
            await target.answers()
            await target.answers()
            await target.cancel()


@pytest.mark.parametrize("kind", ["openai", "anthropic", "ollama"])
async def test_only_the_beginning_of_an_error_is_read(start: StartService, kind: str) -> None:
    sent = 0

    def endless() -> Iterator[bytes]:
        nonlocal sent
        while sent < 500:
            sent += 1
            yield b"x" * 100_000

    async with serving_provider(Reply(400, endless(), PAGE)) as provider:
        client = await start(
            STIGMER_LLM_PROVIDER=kind,
            STIGMER_LLM_MODEL="m",
            STIGMER_LLM_BASE_URL=f"{provider.base_url}/v1" if kind == "openai" else provider.base_url,
            STIGMER_LLM_API_KEY="not-a-real-key",
        )
        finished = one(await client.execute(agent=agent(kind)), "finished")
    assert finished.error.code == "MODEL_REJECTED"
    assert "xxx" in finished.error.message
    assert sent < 500
