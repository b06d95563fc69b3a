"""Which model answers a request."""

from pathlib import Path

import pytest

from runner_service.errors import InvalidRequestError, PreconditionError
from runner_service.models import DEMO_SCRIPT, resolve
from runner_service.models.script import load_script
from runner_service.settings import Settings, load_settings
from runner_service.v1 import agent_runner_pb2 as runner_pb2

KEY = "sk-test-0123456789"


def settings(**environment: str) -> Settings:
    return load_settings({"MODE": "local", "HOME": "/nowhere", **environment})


def openai(**environment: str) -> Settings:
    return settings(STIGMER_LLM_PROVIDER="openai", STIGMER_LLM_MODEL="gpt", STIGMER_LLM_API_KEY=KEY, **environment)


def test_the_settings_choose_when_the_request_does_not() -> None:
    choice = resolve(runner_pb2.Model(), openai(STIGMER_LLM_TEMPERATURE="0.7", STIGMER_LLM_MAX_TOKENS="99"))
    assert (choice.provider, choice.name, choice.temperature, choice.max_output_tokens) == ("openai", "gpt", 0.7, 99)
    assert choice.api_key is not None
    assert choice.api_key.get_secret_value() == KEY
    assert KEY not in repr(choice)


def test_a_request_may_choose_model_temperature_and_length() -> None:
    choice = resolve(runner_pb2.Model(name="gpt-large", temperature=0.0, max_output_tokens=5), openai())
    assert (choice.name, choice.temperature, choice.max_output_tokens) == ("gpt-large", 0.0, 5)


def test_another_provider_needs_its_own_key_and_never_gets_that_of_the_first() -> None:
    with pytest.raises(PreconditionError, match="ANTHROPIC_API_KEY"):
        resolve(runner_pb2.Model(provider="anthropic", name="claude"), openai())
    configured = openai(ANTHROPIC_API_KEY="key-of-claude", STIGMER_LLM_BASE_URL="http://localhost:1")
    choice = resolve(runner_pb2.Model(provider="anthropic", name="claude-sonnet-4.5"), configured)
    assert choice.api_key is not None
    assert choice.api_key.get_secret_value() == "key-of-claude"
    assert choice.base_url is None
    assert choice.name == "claude-sonnet-4-5"


def test_an_endpoint_of_ones_own_needs_no_key() -> None:
    own = settings(
        STIGMER_LLM_PROVIDER="openai", STIGMER_LLM_MODEL="m", STIGMER_LLM_BASE_URL="http://localhost:8000/v1"
    )
    assert resolve(runner_pb2.Model(), own).base_url == "http://localhost:8000/v1"


def test_wrong_wishes_name_the_field() -> None:
    with pytest.raises(InvalidRequestError, match=r"agent\.model\.provider.*openai"):
        resolve(runner_pb2.Model(provider="skynet"), openai())
    nameless = settings(STIGMER_LLM_PROVIDER="openai", STIGMER_LLM_API_KEY=KEY)
    with pytest.raises(InvalidRequestError, match=r"agent\.model\.name"):
        resolve(runner_pb2.Model(), nameless)


def test_a_missing_script_is_the_operators_to_mend(tmp_path: Path) -> None:
    script = tmp_path / "lost.yaml"
    script.write_text("turns: [{text: Hi.}]")
    lost = settings(STIGMER_LLM_PROVIDER="scripted", STIGMER_LLM_SCRIPT=str(script))
    script.unlink()
    with pytest.raises(PreconditionError, match=r"STIGMER_LLM_SCRIPT.*lost\.yaml"):
        resolve(runner_pb2.Model(), lost)


def test_without_a_script_the_demonstration_is_played() -> None:
    choice = resolve(runner_pb2.Model(), settings(STIGMER_LLM_PROVIDER="scripted"))
    assert choice.script == DEMO_SCRIPT
    assert len(load_script(DEMO_SCRIPT).turns) > 5
