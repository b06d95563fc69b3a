"""What one execution of a session leaves to the next: what the log says, and nothing that is refused again."""

import asyncio
from typing import Any

import pytest
from google.protobuf.message import Message
from tests.agent.bench import Bench, command, turn
from tests.agent.provider import Provider, call_delta, completion, error, serving_provider
from tests.agent.test_other_providers import anthropic_message, ollama_answer
from tests.models.strict import problems

from runner_service.errors import ModelRejectedEnd
from runner_service.models import ModelChoice
from runner_service.settings import SecretStr
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


async def test_a_call_without_effects_that_had_ended_has_its_result_too(bench: Bench) -> None:
    bench.root.mkdir(exist_ok=True)
    (bench.root / "notes").write_text("the notes")
    calls = ("read_file", {"file_path": "/notes"}), command("touch begun; sleep 60")
    [request] = await after_a_cancel(bench, turn("", *calls))
    results = [message["content"] for message in request["messages"] if message["role"] == "tool"]
    assert "the notes" in results[0]
    assert "did not complete" in results[1]


async def test_a_sub_agent_that_was_cancelled_is_a_call_that_did_not_complete(bench: Bench) -> None:
    task = ("task", {"subagent_type": "general-purpose", "description": "Look."})
    helper = {"turns": [turn("", command("touch begun; sleep 60")), turn("Never.")]}
    [request] = await after_a_cancel(bench, turn("", task, command("echo quick")), sub_agents=[helper])
    results = [message["content"] for message in request["messages"] if message["role"] == "tool"]
    assert "did not complete" in results[0]
    assert "quick" in results[1]


async def test_executions_that_were_cancelled_one_after_the_other_leave_a_conversation(bench: Bench) -> None:
    [first] = await after_a_cancel(bench, turn("", command("echo one"), command("touch begun; sleep 60")))
    (bench.root / "begun").unlink()
    [second] = await after_a_cancel(bench, turn("", command("echo two"), command("touch begun; sleep 60")))
    results = [message["content"] for message in second["messages"] if message["role"] == "tool"]
    assert len(first["messages"]) < len(second["messages"])
    assert ["one" in results[0], "two" in results[2]] == [True, True]


async def test_a_limit_in_the_middle_of_a_step_leaves_a_conversation(bench: Bench) -> None:
    script = bench.script([turn("", command("echo one"), command("echo two"))])
    await bench.run(script, session="s", limits={"max_tool_calls": 1})
    async with serving_provider(completion({"content": "Ok."})) as provider:
        assert (await bench.run(openai(provider), session="s")).answer == "Ok."
    assert not problems("openai", provider.requests[0])


@pytest.mark.parametrize("other", ["openai", "ollama", "anthropic"])
async def test_a_session_goes_on_with_a_model_of_another_provider(bench: Bench, other: str) -> None:
    thought = {
        "start": {"type": "thinking", "thinking": ""},
        "deltas": [{"type": "thinking_delta", "thinking": "Hm."}, {"type": "signature_delta", "signature": "s"}],
    }
    arguments = {"command": "echo hi"}
    use = {"start": {"type": "tool_use", "id": "toolu_1", "name": "execute", "input": arguments}, "deltas": []}
    text = {"start": {"type": "text", "text": ""}, "deltas": [{"type": "text_delta", "text": "Done."}]}
    replies = anthropic_message(thought, use, stop="tool_use"), anthropic_message(text)
    last = {"openai": completion({"content": "Ok."}), "ollama": ollama_answer({"content": "Ok."})}
    async with serving_provider(*replies, last.get(other, anthropic_message(text))) as provider:
        claude = ModelChoice("anthropic", "claude-test", provider.base_url, SecretStr("k" * 9), None, 99)
        choices = {"openai": openai(provider), "ollama": ModelChoice("ollama", "m", provider.base_url)}
        await bench.run(claude, session="s")
        played = await bench.run(choices.get(other, claude), session="s")

    assert played.answer in {"Ok.", "Done."}
    request = next(each for each in reversed(provider.requests) if each.get("messages"))
    assert not problems(other, request)
    assert ("Hm." in str(request)) is (other == "anthropic")


@pytest.mark.parametrize(
    "name", ["General-Purpose", "", 7, None, ["general-purpose"], {"name": "general-purpose"}, "../x", "a" * 10_000]
)
async def test_a_sub_agent_that_there_is_not_is_a_failed_call(bench: Bench, name: object) -> None:
    played = await bench.play(turn("", ("task", {"subagent_type": name, "description": "Look."})), turn("I see."))

    assert played.answer == "I see."
    assert played.finished("call-1-1").outcome == event_pb2.TOOL_OUTCOME_FAILED
    assert "general-purpose" in played.finished("call-1-1").result
    assert not played.all("sub_agent_started")


async def after_a_cancel(bench: Bench, first: dict[str, Any], **options: Any) -> list[dict[str, Any]]:
    """Cancels an execution whose second call has begun, and returns the request of the session's next one."""
    script = bench.script([first] * 9, options.get("sub_agents", ()))
    ended = asyncio.Event()

    def watch(event: Message) -> None:
        if isinstance(event, event_pb2.ToolCallFinished):
            ended.set()

    async with asyncio.TaskGroup() as tasks:
        playing = tasks.create_task(bench.run(script, session="s", watch=watch))
        await bench.appears("begun")
        await ended.wait()
        playing.cancel()
    async with serving_provider(completion({"content": "Ok."})) as provider:
        assert (await bench.run(openai(provider), session="s", message="Go on.")).answer == "Ok."
    assert not problems("openai", provider.requests[0])
    return provider.requests
