"""The real clients of Anthropic and Ollama against a real endpoint."""

import json
from typing import Any

from anthropic.resources.messages.messages import DEPRECATED_MODELS
from tests.agent.bench import Bench
from tests.agent.provider import Reply, error, serving_provider

from runner_service.errors import ModelRejectedEnd
from runner_service.models import ModelChoice
from runner_service.settings import SecretStr


def anthropic_message(*blocks: dict[str, Any], stop: str = "end_turn") -> Reply:
    """A streamed message of Anthropic's API; each block is its start, and its deltas."""
    usage = {"input_tokens": 7, "output_tokens": 1, "cache_read_input_tokens": 2}
    start = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "content": [], "usage": usage}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": start}]
    for index, block in enumerate(blocks):
        events.append({"type": "content_block_start", "index": index, "content_block": block["start"]})
        events += [{"type": "content_block_delta", "index": index, "delta": delta} for delta in block["deltas"]]
        events.append({"type": "content_block_stop", "index": index})
    events.append({"type": "message_delta", "delta": {"stop_reason": stop}, "usage": {**usage, "output_tokens": 3}})
    events.append({"type": "message_stop"})
    return Reply(body=[f"event: {each['type']}\ndata: {json.dumps(each)}\n\n".encode() for each in events])


async def test_claude_streams_text_thoughts_and_tool_calls(bench: Bench) -> None:
    thought = {"start": {"type": "thinking", "thinking": ""}, "deltas": [{"type": "thinking_delta", "thinking": "Hm."}]}
    text = {
        "start": {"type": "text", "text": ""},
        "deltas": [{"type": "text_delta", "text": "Let "}, {"type": "text_delta", "text": "me."}],
    }
    arguments = ['{"command": ', '"echo hi"}']
    tool = {
        "start": {"type": "tool_use", "id": "toolu_1", "name": "execute", "input": {}},
        "deltas": [{"type": "input_json_delta", "partial_json": piece} for piece in arguments],
    }
    replies = [anthropic_message(thought, text, tool, stop="tool_use"), anthropic_message(text)]
    async with serving_provider(*replies) as provider:
        model = ModelChoice("anthropic", "claude-test", provider.base_url, SecretStr("key-of-claude"), None, 999)
        played = await bench.run(model)

    assert played.answer == "Let me."
    assert [delta.text for delta in played.all("reasoning_delta")] == ["Hm."]
    assert "".join(delta.text for delta in played.all("text_delta")) == "Let me." * 2
    assert [each.stop_reason for each in played.all("message_finished")] == ["tool_use", "end_turn"]
    assert played.output("toolu_1") == b"hi\n"
    assert (played.usage.input_tokens, played.usage.output_tokens) == (18, 6)
    assert played.usage.cached_tokens == 4
    assert provider.requests[0]["max_tokens"] == 999
    for request in provider.requests:
        assert request["cache_control"] == request["system"][-1]["cache_control"] == {"type": "ephemeral", "ttl": "5m"}
    assert provider.authorizations[0].endswith("key-of-claude")


async def test_a_model_that_will_soon_be_out_of_service_is_a_notice_and_works(bench: Bench) -> None:
    name, day = next(iter(DEPRECATED_MODELS.items()))
    text = {"start": {"type": "text", "text": ""}, "deltas": [{"type": "text_delta", "text": "Hello."}]}
    async with serving_provider(anthropic_message(text)) as provider:
        played = await bench.run(
            ModelChoice("anthropic", name, provider.base_url, SecretStr("key-of-claude"), None, 999)
        )
    assert played.answer == "Hello."
    assert played.one("notice").code == "MODEL_RETIRES"
    assert f"anthropic/{name} is out of service after {day}; name another model" in played.one("notice").text


async def test_claudes_refusals_are_clear_ends(bench: Bench) -> None:
    async with serving_provider(error(404, "model: claude-none")) as provider:
        model = ModelChoice("anthropic", "claude-none", provider.base_url, SecretStr("key-of-claude"), None, 999)
        played = await bench.run(model)
    assert isinstance(played.end, ModelRejectedEnd)
    assert "claude-none" in played.end.message


def ollama_answer(*messages: dict[str, Any]) -> Reply:
    """A streamed answer of Ollama's API."""
    empty = {"role": "assistant", "content": ""}
    lines: list[dict[str, Any]] = [{"model": "m", "message": {**empty, **each}, "done": False} for each in messages]
    counts = {"prompt_eval_count": 7, "eval_count": 3, "done_reason": "stop"}
    lines.append({"model": "m", "message": empty, "done": True, **counts})
    body = [json.dumps(line).encode() + b"\n" for line in lines]
    return Reply(body=body, headers={"content-type": "application/x-ndjson"})


async def test_ollama_streams_text_and_tool_calls(bench: Bench) -> None:
    call = {"function": {"name": "execute", "arguments": {"command": "echo hi"}}}
    replies = [ollama_answer({"tool_calls": [call]}), ollama_answer({"content": "It "}, {"content": "says hi."})]
    async with serving_provider(*replies) as provider:
        played = await bench.run(ModelChoice("ollama", "qwen", provider.base_url, None, 0.0, 77))

    assert played.answer == "It says hi."
    (started,) = played.all("tool_call_started")
    assert played.output(started.tool_call_id) == b"hi\n"
    assert (played.usage.input_tokens, played.usage.output_tokens) == (14, 6)
    assert provider.requests[0]["options"]["num_predict"] == 77


async def test_ollama_is_asked_for_a_context_that_holds_the_prompt_and_watchers_are_told(bench: Bench) -> None:
    long = "word " * 20_000
    async with serving_provider(ollama_answer({"content": "One."}), ollama_answer({"content": "Two."})) as provider:
        choice = ModelChoice("ollama", "qwen", provider.base_url, None, 0.0, 77)
        short = await bench.run(choice)
        grown = await bench.run(choice, message=long)
    assert [each["options"]["num_ctx"] for each in provider.requests] == [16_384, 65_536]
    assert [played.one("notice").code for played in (short, grown)] == ["CONTEXT_SIZE", "CONTEXT_SIZE"]
    assert "65,536 tokens" in grown.one("notice").text


async def test_a_context_of_the_settings_is_left_as_it_is(bench: Bench) -> None:
    async with serving_provider(ollama_answer({"content": "One."})) as provider:
        choice = ModelChoice("ollama", "qwen", provider.base_url, None, 0.0, 77, context_tokens=4096)
        played = await bench.run(choice)
    assert provider.requests[0]["options"]["num_ctx"] == 4096
    assert not played.all("notice")


async def test_a_tool_call_that_is_written_as_text_is_noticed_with_what_to_do(bench: Bench) -> None:
    written = '```json\n{"name": "execute", "arguments": {"command": "ls"}}\n```'
    async with serving_provider(ollama_answer({"content": written})) as provider:
        played = await bench.run(ModelChoice("ollama", "coder", provider.base_url, None, 0.0, 77, context_tokens=4096))
    assert played.one("notice").code == "TOOL_CALL_AS_TEXT"
    assert "ollama/qwen3:8b" in played.one("notice").text
