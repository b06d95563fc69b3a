"""Keys and addresses as people paste them, and proxies that cannot be used: told at the start."""

import pytest

from runner_service.settings import SettingsError, load_settings

BASE = {"MODE": "local", "HOME": "/nowhere", "STIGMER_LLM_PROVIDER": "openai", "STIGMER_LLM_MODEL": "m"}


@pytest.mark.parametrize("variable", ["STIGMER_LLM_API_KEY", "OPENAI_API_KEY", "ANTHROPIC_API_KEY"])
@pytest.mark.parametrize("pasted", [" sk-key-0123", "sk-key-0123\n", "\tsk-key-0123\r\n", "\u00a0sk-key-0123"])
def test_white_space_around_a_key_is_no_part_of_it(variable: str, pasted: str) -> None:
    settings = load_settings({**BASE, variable: pasted})
    found = getattr(settings, variable.lower())
    assert found.get_secret_value() == "sk-key-0123"


@pytest.mark.parametrize(
    ("pasted", "words"),
    [
        ("“sk-key-0123”", "LEFT DOUBLE QUOTATION MARK"),
        ("sk-key-0123’", "RIGHT SINGLE QUOTATION MARK"),
        ("«sk-key-0123»", "LEFT-POINTING DOUBLE ANGLE QUOTATION MARK"),
        ("sk–key", "EN DASH"),
        ("sk-\N{ZERO WIDTH SPACE}key", "ZERO WIDTH SPACE"),
        ("sk-\x1bkey", "\\x1b"),
        ("'sk-key-0123'", "quotes"),
        ('"sk-key-0123"', "quotes"),
        ("`sk-key-0123`", "quotes"),
        ("sk key", "spaces"),
        ("Bearer sk-key", "spaces"),
    ],
)
def test_a_key_with_what_no_key_holds_is_refused_and_not_shown(pasted: str, words: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({**BASE, "STIGMER_LLM_API_KEY": pasted})
    [problem] = refused.value.problems
    assert problem.variable == "STIGMER_LLM_API_KEY"
    assert words in problem.text
    assert "key-0123" not in problem.text


def test_white_space_around_an_address_is_no_part_of_it() -> None:
    settings = load_settings({**BASE, "STIGMER_LLM_BASE_URL": " http://localhost:8000/v1 \n"})
    assert settings.stigmer_llm_base_url == "http://localhost:8000/v1"


@pytest.mark.parametrize("pasted", ["“http://localhost:8000/v1”", "'http://localhost:8000/v1'", "http://local–host"])
def test_an_address_in_quotes_is_refused(pasted: str) -> None:
    with pytest.raises(SettingsError, match="STIGMER_LLM_BASE_URL"):
        load_settings({**BASE, "STIGMER_LLM_BASE_URL": pasted})


@pytest.mark.parametrize("variable", ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "HTTP_PROXY"])
@pytest.mark.parametrize("proxy", ["socks5://localhost:1080", "SOCKS5H://localhost", "socks4://localhost"])
def test_a_socks_proxy_is_refused_at_the_start(variable: str, proxy: str) -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({**BASE, variable: proxy})
    [problem] = refused.value.problems
    assert problem.variable == variable
    assert "HTTP proxy" in problem.text


def test_an_http_proxy_is_taken_and_a_script_needs_none() -> None:
    load_settings({**BASE, "HTTPS_PROXY": "http://proxy:3128"})
    load_settings({**BASE, "STIGMER_LLM_PROVIDER": "scripted", "ALL_PROXY": "socks5://localhost"})
