"""Conversations that outgrow the model's context, and the checkpoints of all of them."""

import asyncio

import pytest
from tests.agent.bench import Bench, command, turn
from tests.agent.provider import call_delta, completion, error, serving_provider

from runner_service.models import ModelChoice
from runner_service.settings import SecretStr


async def test_a_conversation_that_is_too_long_is_summarised_out_of_the_users_sight(bench: Bench) -> None:
    step = '{"command": "echo step; seq 1 2000"}'
    deltas = [call_delta(0, step, name="execute", call_id=f"call_{number}") for number in range(6)]
    calls = [completion(delta, finish="tool_calls") for delta in deltas]
    too_long = error(400, "maximum context length exceeded (context_length_exceeded)")
    summary, answer = completion({"content": "THE SUMMARY"}), completion({"content": "Done."})
    async with serving_provider(*calls, too_long, summary, answer) as provider:
        model = ModelChoice("openai", "tester", f"{provider.base_url}/v1", SecretStr("k" * 9), None, 100)
        played = await bench.run(model, session="long")

    assert played.answer == "Done."
    assert "THE SUMMARY" in str(provider.requests[-1]["messages"])
    assert "SUMMARY" not in "".join(delta.text for delta in played.all("text_delta"))
    assert played.usage.model_calls == 8
    assert played.usage.input_tokens == 8 * 7
    assert not list(bench.root.iterdir())
    (history,) = (bench.state_dir / "agents").rglob("*.md")
    assert (bench.state_dir / "agents" / "thread-long").stat().st_mode & 0o777 == 0o700
    assert "step" in history.read_text()


async def test_a_summary_that_is_empty_or_breaks_off_is_made_again(bench: Bench) -> None:
    step = '{"command": "echo step; seq 1 2000"}'
    deltas = [call_delta(0, step, name="execute", call_id=f"call_{number}") for number in range(6)]
    calls = [completion(delta, finish="tool_calls") for delta in deltas]
    too_long = error(400, "the request exceeds the available context size")
    summaries = (
        completion(),
        completion({"content": "HALF A SUMM"}, finish="length"),
        completion({"content": "SUMMARY"}),
    )
    async with serving_provider(*calls, too_long, *summaries, completion({"content": "Done."})) as provider:
        model = ModelChoice("openai", "tester", f"{provider.base_url}/v1", SecretStr("k" * 9), None, 100)
        played = await bench.run(model)

    assert played.answer == "Done."
    sent = str(provider.requests[-1]["messages"])
    assert "SUMMARY" in sent
    assert "HALF A SUMM" not in sent


async def test_a_very_long_message_of_the_user_stays_out_of_the_users_directory(bench: Bench) -> None:
    played = await bench.play(turn("Read."), message="word " * 60_000)
    assert played.answer == "Read."
    assert not list(bench.root.iterdir())
    assert not list((bench.state_dir / "agents").iterdir())


async def test_the_log_of_the_checkpoints_is_carried_over_in_the_background(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runner_service.storage.sqlite.checkpoints._PUTS_PER_WAL_CHECKPOINT", 5)
    database = bench.state_dir / "checkpoints.db"
    before = database.stat().st_size
    await bench.play(*[turn("", command("true"))] * 3, turn("Done."), session="s")
    async with asyncio.timeout(60):
        while database.stat().st_size == before:  # a thread writes it
            await asyncio.sleep(0.01)
