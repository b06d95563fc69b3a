"""What one execution of a session leaves to the next: what the log says, and nothing that is refused again."""

import asyncio
from typing import Any

import pytest
from google.protobuf.message import Message
from pydantic import SecretStr
from tests.agent.bench import Bench, command, turn
from tests.agent.provider import Provider, call_delta, completion, error, serving_provider
from tests.models.strict import problems

from runner_service.errors import ModelRejectedEnd
from runner_service.models import ModelChoice
from runner_service.v1 import execution_event_pb2 as event_pb2


def openai(provider: Provider) -> ModelChoice:
    return ModelChoice("openai", "tester", f"{provider.base_url}/v1", SecretStr("k" * 9), None, 100)


def texts(request: dict[str, Any]) -> list[str]:
    return [str(message["content"]) for message in request["messages"][1:]]


async def test_a_message_that_the_provider_refused_is_left_out_of_the_session(bench: Bench) -> None:
    replies = completion({"content": "One."}), error(400, "no such words"), completion({"content": "Three."})
    async with serving_provider(*replies) as provider:
        model = openai(provider)
        await bench.run(model, session="s", message="first")
        refused = await bench.run(model, session="s", message="unspeakable")
        played = await bench.run(model, session="s", message="third")

    assert isinstance(refused.end, ModelRejectedEnd)
    assert refused.one("notice").code == "MESSAGE_LEFT_OUT"
    assert played.answer == "Three."
    assert "unspeakable" not in str(provider.requests[2])
    assert texts(provider.requests[2]) == ["first", "One.", "[left out: the provider refused it]\n\nthird"]


async def test_a_result_that_the_provider_refused_is_left_out_and_its_call_stays(bench: Bench) -> None:
    call = call_delta(0, '{"command": "echo odd"}', name="execute", call_id="call_a")
    replies = completion(call, finish="tool_calls"), error(422, "odd"), completion({"content": "Ok."})
    async with serving_provider(*replies) as provider:
        model = openai(provider)
        await bench.run(model, session="s", message="first")
        played = await bench.run(model, session="s", message="second")

    assert played.answer == "Ok."
    assert not problems("openai", provider.requests[2])
    assert texts(provider.requests[2])[2] == "[left out: the provider refused it]"


async def test_a_refusal_of_the_model_keeps_its_words_and_does_not_stay(bench: Bench) -> None:
    replies = completion({"refusal": "I will not."}), completion({"content": "Ok."})
    async with serving_provider(*replies) as provider:
        refused = await bench.run(openai(provider), session="s", message="evil")
        played = await bench.run(openai(provider), session="s", message="good")

    assert isinstance(refused.end, ModelRejectedEnd)
    assert "I will not." in refused.end.message
    assert played.answer == "Ok."
    assert "evil" not in str(provider.requests[1])


@pytest.mark.parametrize("status", [401, 403, 404, 402])
async def test_a_refusal_for_another_reason_leaves_the_session_as_it_is(bench: Bench, status: int) -> None:
    async with serving_provider(error(status, "no"), completion({"content": "Ok."})) as provider:
        await bench.run(openai(provider), session="s", message="first")
        await bench.run(openai(provider), session="s", message="second")
    assert texts(provider.requests[1]) == ["first\n\nsecond"]


async def test_a_call_that_had_ended_when_its_execution_was_cancelled_has_its_result(bench: Bench) -> None:
    calls = command("echo pushed"), command("touch begun; sleep 60")
    script = bench.script([turn("", *calls), turn("{{last_tool_result}}")])
    ended = asyncio.Event()

    def watch(event: Message) -> None:
        if isinstance(event, event_pb2.ToolCallFinished):
            ended.set()

    async with asyncio.TaskGroup() as tasks:
        playing = tasks.create_task(bench.run(script, session="s", watch=watch, execution_id="cancelled"))
        await bench.appears("begun")
        await ended.wait()
        playing.cancel()
    await bench.harness.forget("cancelled", "s")

    async with serving_provider(completion({"content": "Ok."})) as provider:
        await bench.run(openai(provider), session="s", message="Go on.")
    [request] = provider.requests
    assert not problems("openai", request)
    results = [message["content"] for message in request["messages"] if message["role"] == "tool"]
    assert "pushed" in results[0]
    assert "did not complete" in results[1]
