"""Models that fail: which failures are tried again, and how the rest ends."""

from dataclasses import replace

import pytest
from tests.agent.bench import Bench, command, turn

from runner_service.errors import ModelRejectedEnd, ModelUnavailableEnd
from runner_service.models import ModelChoice


def failing(**error: object) -> dict[str, object]:
    return turn("Here I am.", error=error)


@pytest.mark.parametrize("error", [{"status": 429, "retry_after": 0.02}, {"status": 503}, {}], ids=str)
async def test_a_passing_failure_is_tried_again_with_a_notice(bench: Bench, error: dict[str, object]) -> None:
    played = await bench.play(failing(times=2, **error))

    assert played.answer == "Here I am."
    notices = played.all("notice")
    assert [notice.code for notice in notices] == ["RETRYING_MODEL", "RETRYING_MODEL"]
    assert "try 3 of 4" in notices[1].text
    assert played.usage.model_calls == 1


async def test_what_a_failed_try_had_said_is_taken_back(bench: Bench) -> None:
    played = await bench.play(failing(times=1, after_pieces=2))

    assert played.answer == "Here I am."
    discarded = played.one("message_discarded").message_id
    said = {delta.message_id for delta in played.all("text_delta")}
    assert discarded in said
    assert said - {discarded} == {played.one("message_finished").message_id}


async def test_a_failure_that_stays_ends_the_execution_after_four_tries(bench: Bench) -> None:
    played = await bench.play(failing(status=500, message="out of order"))

    assert isinstance(played.end, ModelUnavailableEnd)
    assert played.end.retryable
    assert "4 tries" in played.end.message
    assert "out of order" in played.end.message
    assert len(played.all("notice")) == 3


async def test_a_provider_that_wants_to_be_left_alone_for_long_is(bench: Bench) -> None:
    played = await bench.play(failing(status=429, retry_after=3600))
    assert isinstance(played.end, ModelUnavailableEnd)
    assert not played.all("notice")


@pytest.mark.parametrize(("status", "hint"), [(401, "key"), (403, "key"), (404, "know this model"), (400, "refused")])
async def test_a_refusal_ends_the_execution_at_once(bench: Bench, status: int, hint: str) -> None:
    played = await bench.play(failing(status=status, message="no way"))

    assert isinstance(played.end, ModelRejectedEnd)
    assert not played.end.retryable
    assert hint in played.end.message
    assert "no way" in played.end.message
    assert not played.all("notice")


async def test_an_answer_that_was_cut_short_is_noticed(bench: Bench) -> None:
    played = await bench.play(turn("And then", stop_reason="length"))
    assert played.one("notice").code == "ANSWER_CUT_SHORT"
    assert played.answer == "And then"


@pytest.mark.parametrize(
    ("wait", "setting"), [("silence", "STIGMER_LLM_IDLE_TIMEOUT"), ("delay", "STIGMER_LLM_FIRST_TOKEN_TIMEOUT")]
)
async def test_a_silent_model_is_given_up_and_the_setting_named(bench: Bench, wait: str, setting: str) -> None:
    choice = bench.script([turn("Well…", **{wait: 60})])
    choice = replace(choice, idle_timeout=0.05) if wait == "silence" else replace(choice, first_token_timeout=0.05)
    played = await bench.run(choice)
    assert isinstance(played.end, ModelUnavailableEnd)
    assert "sent nothing" in played.end.message
    assert setting in played.end.message


async def test_an_endless_message_is_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runner_service.models.answer.MAX_MESSAGE_SIZE", 1000)
    played = await bench.play(turn("on and " * 1000))
    assert isinstance(played.end, ModelUnavailableEnd)
    assert "more than" in played.end.message


@pytest.mark.parametrize(
    ("text", "problem"),
    [("turns: [", "not YAML"), ("turns: []", "turns"), ("turns: [{txt: x}]", "turns.0.txt")],
)
async def test_a_wrong_script_is_refused_with_the_place(bench: Bench, text: str, problem: str) -> None:
    path = bench.scripts / "wrong.yaml"
    path.write_text(text)
    played = await bench.run(ModelChoice("scripted", "scripted", script=path))
    assert isinstance(played.end, ModelRejectedEnd)
    assert problem in played.end.message


async def test_a_script_is_read_again_when_it_has_changed(bench: Bench) -> None:
    assert (await bench.play(turn("", command("true")), turn("One."))).answer == "One."
    assert (await bench.play(turn("Two."))).answer == "Two."
