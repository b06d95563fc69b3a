"""The real OpenAI client against a real endpoint: streams, failures, and what is sent."""

import pytest
from tests.agent.bench import Bench, Played
from tests.agent.provider import Provider, Reply, call_delta, chunk, completion, error, serving_provider

from runner_service.errors import ModelRejectedEnd, ModelUnavailableEnd
from runner_service.models import ModelChoice
from runner_service.redaction import MARK
from runner_service.settings import SecretStr

KEY = "sk-test-0123456789"


def choice(provider: Provider) -> ModelChoice:
    return ModelChoice("openai", "tester", f"{provider.base_url}/v1", SecretStr(KEY), 0.5, 1234)


async def play(bench: Bench, *replies: Reply) -> tuple[Played, Provider]:
    async with serving_provider(*replies) as provider:
        return await bench.run(choice(provider), message="Hello?", instructions="Be brief."), provider


async def test_text_and_reasoning_stream_and_usage_is_counted(bench: Bench) -> None:
    played, provider = await play(
        bench, completion({"reasoning_content": "Hm. "}, {"reasoning": "Hm!"}, {"content": "Hel"}, {"content": "lo."})
    )
    assert played.answer == "Hello."
    assert "".join(delta.text for delta in played.all("text_delta")) == "Hello."
    assert "".join(delta.text for delta in played.all("reasoning_delta")) == "Hm. Hm!"
    assert played.one("message_finished").stop_reason == "stop"
    assert (played.usage.input_tokens, played.usage.output_tokens, played.usage.cached_tokens) == (7, 3, 2)
    (request,) = provider.requests
    assert (request["model"], request["temperature"], request["stream"]) == ("tester", 0.5, True)
    assert 1234 in {request.get("max_tokens"), request.get("max_completion_tokens")}
    assert provider.authorizations == [f"Bearer {KEY}"]


async def test_the_model_is_offered_exactly_the_nine_tools(bench: Bench) -> None:
    _, provider = await play(bench, completion({"content": "Hello."}))
    assert {tool["function"]["name"] for tool in provider.requests[0]["tools"]} == {
        *("execute", "ls", "read_file", "write_file", "edit_file", "glob", "grep", "write_todos", "task")
    }


async def test_tool_calls_that_come_in_many_pieces_are_put_together(bench: Bench) -> None:
    played, provider = await play(
        bench,
        completion(
            call_delta(0, "", name="execute", call_id="call_a"),
            call_delta(0, '{"comm'),
            call_delta(1, "", name="execute", call_id="call_b"),
            call_delta(0, 'and": "echo one"}'),
            call_delta(1, '{"command": "echo two"}'),
            finish="tool_calls",
        ),
        completion({"content": "Done."}),
    )
    assert played.answer == "Done."
    assert played.output("call_a") == b"one\n"
    assert played.output("call_b") == b"two\n"
    results = [message for message in provider.requests[1]["messages"] if message["role"] == "tool"]
    assert [message["tool_call_id"] for message in results] == ["call_a", "call_b"]
    assert "one" in results[0]["content"]


async def test_a_tool_call_that_was_cut_off_is_not_run(bench: Bench) -> None:
    cut = call_delta(0, '{"command": "touch made; rm -rf /some', name="execute", call_id="call_a")
    played, _ = await play(bench, completion(cut, finish="length"), completion({"content": "Done."}))

    assert played.answer == "Done."
    assert not (bench.root / "made").exists()
    assert "one JSON object" in played.finished("call_a").result


async def test_a_wrong_key_ends_it_and_is_not_shown(bench: Bench) -> None:
    played, _ = await play(bench, error(401, "Incorrect API key provided"))
    assert isinstance(played.end, ModelRejectedEnd)
    assert "Incorrect API key" in played.end.message
    assert KEY not in played.end.message


async def test_a_conversation_that_is_too_long_is_a_clear_end(bench: Bench) -> None:
    too_long = "This model's maximum context length is 10 tokens (context_length_exceeded)"
    played, _ = await play(bench, error(400, too_long), error(400, too_long), error(400, too_long))
    assert isinstance(played.end, ModelRejectedEnd)
    assert "context" in played.end.message


async def test_a_rate_limit_is_waited_out(bench: Bench) -> None:
    played, provider = await play(
        bench, error(429, "slow down", **{"retry-after": "0.01"}), error(503, "busy"), completion({"content": "Yes."})
    )
    assert played.answer == "Yes."
    assert len(provider.requests) == 3
    assert [notice.code for notice in played.all("notice")] == ["RETRYING_MODEL"] * 2
    assert "slow down" in played.all("notice")[0].text


async def test_a_stream_that_dies_is_made_again_and_what_it_said_taken_back(bench: Bench) -> None:
    dead = Reply(body=[chunk({"content": "Hel"})], dies=True)
    ended = Reply(body=[chunk({"content": "Hell"})])
    played, _ = await play(bench, dead, ended, completion({"content": "Hello."}))

    assert played.answer == "Hello."
    discarded = [each.message_id for each in played.all("message_discarded")]
    said = [(each.message_id, each.text) for each in played.all("text_delta")]
    kept = played.one("message_finished").message_id
    assert said == [(discarded[0], "Hel"), (discarded[1], "Hell"), (kept, "Hello.")]


@pytest.mark.filterwarnings("ignore:Pydantic serializer")  # the client's own word about the third reply
async def test_garbage_ends_it_after_some_tries(bench: Bench) -> None:
    html = Reply(body=[b"<html>not a model</html>"], headers={"content-type": "text/html"})
    broken = Reply(body=[b"data: {not json\n\n"])
    odd = Reply(body=[b'data: {"choices": [{"delta": "no"}]}\n\n'])
    nothing = Reply(body=[b"data: [DONE]\n\n"])
    played, provider = await play(bench, html, broken, odd, nothing)

    assert isinstance(played.end, ModelUnavailableEnd)
    assert len(provider.requests) == 4


async def test_an_endpoint_that_is_not_there_ends_it_after_some_tries(bench: Bench) -> None:
    async with serving_provider() as provider:
        gone = choice(provider)
    played = await bench.run(gone)
    assert isinstance(played.end, ModelUnavailableEnd)
    assert "connect" in played.end.message.lower()


async def test_the_provider_is_sent_no_secret(bench: Bench) -> None:
    secret = "s3cr3t-t0ken-value"
    call = call_delta(0, '{"command": "echo $TOKEN"}', name="execute", call_id="call_a")
    async with serving_provider(completion(call, finish="tool_calls"), completion({"content": "Done."})) as provider:
        await bench.run(
            choice(provider),
            message=f"use {secret}",
            instructions=f"log in with {secret}",
            secrets=[secret],
            environment={"TOKEN": secret},
        )
    assert str(provider.requests).count(MARK) >= 5
    assert secret not in str(provider.requests)
