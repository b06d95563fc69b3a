"""The environment: what each mode makes of it, and what is said when it is wrong."""

from pathlib import Path
from typing import Any

import pytest

from runner_service.settings import (
    DUMMY_API_KEY,
    EXIT_CONFIG,
    Settings,
    SettingsError,
    describe,
    load_settings,
    warnings_about,
)

LOCAL_BLOCK = {
    "MODE": "local",
    "SANDBOX_TYPE": "filesystem",
    "SANDBOX_ROOT_DIR": "./workspace",
    "STIGMER_BACKEND_ENDPOINT": "localhost:50051",
    "STIGMER_API_KEY": "dummy-local-key",
}
CLOUD_BLOCK = {"REDIS_HOST": "redis.internal", "DAYTONA_API_KEY": "dtn_0123", "STIGMER_API_KEY": "stk_0123"}
CLOUD = {"MODE": "cloud", **CLOUD_BLOCK}


def problems_of(environ: dict[str, str]) -> dict[str, str]:
    with pytest.raises(SettingsError) as refused:
        load_settings(environ)
    problems = {problem.variable: problem.text for problem in refused.value.problems}
    assert len(problems) == len(refused.value.problems), "each variable is told once"
    assert str(refused.value).splitlines() == [f"{name}: {text}" for name, text in problems.items()]
    return problems


def test_the_daemons_local_block_starts_the_service_beside_the_daemon() -> None:
    settings = load_settings(LOCAL_BLOCK)
    assert settings.is_local_mode()
    assert settings.get_sandbox_config() == {"type": "filesystem", "root_dir": "./workspace"}
    assert settings.listen_address == "localhost:50052"
    assert settings.stigmer_api_key is not None
    assert settings.stigmer_api_key.get_secret_value() == "dummy-local-key"


@pytest.mark.parametrize("mode", [{}, {"MODE": "cloud"}])
def test_the_cloud_block_starts_the_service_with_or_without_the_mode(mode: dict[str, str]) -> None:
    settings = load_settings(CLOUD_BLOCK | mode)
    assert settings.mode == "cloud"
    assert not settings.is_local_mode()
    assert settings.get_sandbox_config() == {"type": "daytona"}
    assert (settings.redis_host, settings.redis_port, settings.redis_password) == ("redis.internal", 6379, None)
    assert settings.listen_address == "localhost:50051"


def test_a_snapshot_is_part_of_the_clouds_sandbox() -> None:
    settings = load_settings(CLOUD | {"DAYTONA_DEV_TOOLS_SNAPSHOT_ID": "snap-1"})
    assert settings.get_sandbox_config() == {"type": "daytona", "snapshot_id": "snap-1"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            {"MODE": "local"},
            {
                "env": "development",
                "sandbox_type": "filesystem",
                "sandbox_root_dir": "./workspace",
                "stigmer_backend_endpoint": None,
                "listen_address": "localhost:50051",
                "redis_host": None,
                "redis_port": None,
                "stigmer_llm_provider": "ollama",
                "stigmer_llm_model": "qwen2.5-coder:7b",
                "stigmer_llm_base_url": "http://localhost:11434",
                "stigmer_llm_api_key": None,
                "stigmer_llm_max_tokens": 8192,
                "stigmer_llm_temperature": 0.0,
                "drain_timeout": 4.0,
                "temporal_service_address": "localhost:7233",
                "temporal_namespace": "default",
                "temporal_agent_execution_runner_task_queue": "agent_execution_runner",
                "temporal_max_concurrency": 10,
            },
        ),
        (
            CLOUD_BLOCK,
            {
                "sandbox_type": "daytona",
                "stigmer_llm_provider": "anthropic",
                "stigmer_llm_model": "claude-sonnet-4.5",
                "stigmer_llm_base_url": None,
                "stigmer_llm_max_tokens": 20000,
                "stigmer_llm_temperature": None,
                "drain_timeout": 300.0,
            },
        ),
    ],
)
def test_defaults_follow_the_mode(environ: dict[str, str], expected: dict[str, Any]) -> None:
    settings = load_settings(environ)
    assert {name: getattr(settings, name) for name in expected} == expected


def test_in_local_mode_what_belongs_to_the_cloud_is_not_even_read() -> None:
    settings = load_settings(
        {"MODE": "local", "REDIS_HOST": "x", "REDIS_PORT": "none", "REDIS_PASSWORD": "p", "DAYTONA_API_KEY": "d"}
    )
    assert (settings.redis_host, settings.redis_port, settings.redis_password) == (None, None, None)
    assert settings.daytona_api_key is None


@pytest.mark.parametrize("stage", ["development", "staging", "production"])
@pytest.mark.parametrize("environ", [{"MODE": "local"}, CLOUD])
def test_the_stage_changes_nothing_but_itself(environ: dict[str, str], stage: str) -> None:
    with_stage, without = load_settings(environ | {"ENV": stage}), load_settings(environ)
    assert all(getattr(with_stage, name) == getattr(without, name) for name in without.names() if name != "env")


def test_names_are_exact_values_are_literal_and_empty_ones_are_none() -> None:
    assert load_settings({**CLOUD, "mode": "local"}).mode == "cloud"
    assert "'local' or 'cloud'" in problems_of({"MODE": '"local"'})["MODE"]
    assert load_settings({**LOCAL_BLOCK, "STIGMER_LLM_BASE_URL": ""}).stigmer_llm_base_url == "http://localhost:11434"


def test_only_what_was_given_is_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("STIGMER_LLM_MODEL", "from the process")
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_text("STIGMER_LLM_MODEL=from a file\n")
    assert load_settings({"MODE": "local"}).stigmer_llm_model == "qwen2.5-coder:7b"
    assert load_settings({"MODE": "local", "STIGMER_LLM_MODEL": "given"}).stigmer_llm_model == "given"


@pytest.mark.parametrize(
    ("environ", "key", "url"),
    [
        ({"STIGMER_LLM_PROVIDER": "openai", "OPENAI_API_KEY": "o"}, "o", None),
        ({"STIGMER_LLM_PROVIDER": "openai", "OPENAI_API_KEY": "o", "STIGMER_LLM_API_KEY": "s"}, "s", None),
        ({"STIGMER_LLM_PROVIDER": "anthropic", "ANTHROPIC_API_KEY": "a", "OPENAI_API_KEY": "o"}, "a", None),
        ({"STIGMER_LLM_PROVIDER": "anthropic", "OPENAI_API_KEY": "o"}, None, None),
        ({"OLLAMA_BASE_URL": "http://gpu:11434/"}, None, "http://gpu:11434"),
        ({"OLLAMA_BASE_URL": "http://gpu:1", "STIGMER_LLM_BASE_URL": "http://other:1"}, None, "http://other:1"),
        ({"STIGMER_LLM_PROVIDER": "openai", "OLLAMA_BASE_URL": "http://gpu:1"}, None, None),
    ],
)
def test_a_providers_own_variables_stand_in_for_the_general_ones(
    environ: dict[str, str], key: str | None, url: str | None
) -> None:
    settings = load_settings({"MODE": "local", **environ})
    found = settings.llm_api_key(settings.stigmer_llm_provider)
    assert (found.get_secret_value() if found else None) == key
    assert settings.llm_base_url(settings.stigmer_llm_provider) == url


def test_another_provider_has_only_what_its_own_variables_say() -> None:
    settings = load_settings(
        {
            "MODE": "local",
            "STIGMER_LLM_PROVIDER": "openai",
            "STIGMER_LLM_API_KEY": "s",
            "STIGMER_LLM_BASE_URL": "http://x",
            "ANTHROPIC_API_KEY": "a",
        }
    )
    key = settings.llm_api_key("anthropic")
    assert key is not None
    assert key.get_secret_value() == "a"
    assert settings.llm_base_url("anthropic") is None
    assert settings.llm_base_url("ollama") == "http://localhost:11434"
    assert settings.llm_api_key("ollama") is None


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"STATE_DIR": "/s"}, "/s"),
        ({"XDG_STATE_HOME": "/x", "HOME": "/h"}, "/x/runner-service"),
        ({"XDG_STATE_HOME": "relative", "HOME": "/h"}, "/h/.local/state/runner-service"),
        ({"HOME": "/h"}, "/h/.local/state/runner-service"),
    ],
)
def test_the_state_directory_follows_xdg(environ: dict[str, str], expected: str) -> None:
    assert load_settings({"MODE": "local", **environ}).state_dir == Path(expected)


@pytest.mark.parametrize(
    ("daemon", "address"),
    [
        ("localhost:50051", "localhost:50052"),
        ("127.0.0.1:50051", "localhost:50052"),
        ("[::1]:50051", "localhost:50052"),
        ("localhost:7000", "localhost:50051"),
        ("api.example.com:50051", "localhost:50051"),
    ],
)
def test_the_default_address_makes_room_for_the_daemon(daemon: str, address: str) -> None:
    assert load_settings({"MODE": "local", "STIGMER_BACKEND_ENDPOINT": daemon}).listen_address == address


@pytest.mark.parametrize("address", ["localhost:50051", "127.0.0.1:50051", "[::1]:50051"])
def test_an_explicit_clash_with_the_daemon_is_an_error_that_says_so(address: str) -> None:
    text = problems_of(LOCAL_BLOCK | {"LISTEN_ADDRESS": address})["LISTEN_ADDRESS"]
    assert "STIGMER_BACKEND_ENDPOINT" in text


@pytest.mark.parametrize("environ", [{"MODE": "local"}, CLOUD])
@pytest.mark.parametrize("address", ["0.0.0.0:50051", "[::]:50051", "10.0.0.1:50051", "runner.example.com:50051"])
def test_beyond_loopback_takes_a_token_or_mtls_in_both_modes(
    environ: dict[str, str], address: str, tmp_path: Path
) -> None:
    environ = environ | {"LISTEN_ADDRESS": address}
    assert "AUTH_TOKEN" in problems_of(environ)["LISTEN_ADDRESS"]
    for name in ("cert", "key", "ca", "token"):
        (tmp_path / name).write_text("x")
    tls = {"TLS_CERT_FILE": str(tmp_path / "cert"), "TLS_KEY_FILE": str(tmp_path / "key")}
    assert "AUTH_TOKEN" in problems_of(environ | tls)["LISTEN_ADDRESS"]
    load_settings(environ | {"AUTH_TOKEN": "t0ken"})
    load_settings(environ | {"AUTH_TOKEN_FILE": str(tmp_path / "token")})
    load_settings(environ | tls | {"TLS_CLIENT_CA_FILE": str(tmp_path / "ca")})


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:1", "unix:/run/user/1/x.sock"])
def test_loopback_and_unix_sockets_need_no_token(address: str) -> None:
    assert load_settings({"MODE": "local", "LISTEN_ADDRESS": address}).listen_address == address


def test_everything_that_is_wrong_is_told_at_once() -> None:
    problems = problems_of(
        {
            "ENV": "local",
            "SANDBOX_TYPE": "filesystem",
            "REDIS_PORT": "99999",
            "LISTEN_ADDRESS": "0.0.0.0:1",
            "TLS_KEY_FILE": "/nowhere/key.pem",
            "STIGMER_LLM_PROVIDER": "gemini",
            "STIGMER_LLM_TEMPERATURE": "nan",
            "STIGMER_LLM_BASE_URL": "localhost:1",
            "DRAIN_TIMEOUT": "inf",
            "DEFAULT_TIMEOUT": "0",
            "DEFAULT_MAX_TOOL_CALLS": "many",
            "STIGMER_BACKEND_ENDPOINT": "http://localhost:50051",
        }
    )
    assert problems["ENV"] == "should be 'development', 'staging' or 'production', not 'local'"
    assert problems["STIGMER_LLM_PROVIDER"].endswith("not 'gemini'")
    assert problems["TLS_KEY_FILE"] == "/nowhere/key.pem cannot be read: No such file or directory"
    assert set(problems) == {
        *("ENV", "SANDBOX_TYPE", "REDIS_PORT", "LISTEN_ADDRESS", "TLS_KEY_FILE", "TLS_CERT_FILE"),
        *("STIGMER_LLM_PROVIDER", "STIGMER_LLM_TEMPERATURE", "STIGMER_LLM_BASE_URL", "DRAIN_TIMEOUT"),
        *("DEFAULT_TIMEOUT", "DEFAULT_MAX_TOOL_CALLS", "STIGMER_BACKEND_ENDPOINT"),
        *("DAYTONA_API_KEY", "STIGMER_API_KEY"),
    }
    assert EXIT_CONFIG == 78


@pytest.mark.parametrize(
    ("environ", "variable"),
    [
        ({"AUTH_TOKEN": "a b"}, "AUTH_TOKEN"),
        ({"AUTH_TOKEN": "tökén"}, "AUTH_TOKEN"),
        ({"AUTH_TOKEN": "t", "AUTH_TOKEN_FILE": "{file}"}, "AUTH_TOKEN_FILE"),
        ({"AUTH_TOKEN_FILE": "{empty}"}, "AUTH_TOKEN_FILE"),
        ({"AUTH_TOKEN_FILE": "/nowhere"}, "AUTH_TOKEN_FILE"),
        ({"TLS_CERT_FILE": "{file}"}, "TLS_KEY_FILE"),
        ({"TLS_CLIENT_CA_FILE": "{file}"}, "TLS_CERT_FILE"),
        ({"STIGMER_LLM_SCRIPT": "/nowhere"}, "STIGMER_LLM_SCRIPT"),
        ({"SANDBOX_TYPE": "daytona"}, "SANDBOX_TYPE"),
        ({"OLLAMA_BASE_URL": "http://user:hunter22@host"}, "OLLAMA_BASE_URL"),
        ({"LISTEN_ADDRESS": "50051"}, "LISTEN_ADDRESS"),
        ({"SANDBOX_MAX_PROCESSES": "-1"}, "SANDBOX_MAX_PROCESSES"),
        ({"SANDBOX_MAX_MEMORY_BYTES": "2 GB"}, "SANDBOX_MAX_MEMORY_BYTES"),
        ({"SANDBOX_MAX_CPU_SECONDS": "-0.1"}, "SANDBOX_MAX_CPU_SECONDS"),
    ],
)
def test_each_mistake_is_found_at_its_variable(environ: dict[str, str], variable: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "empty").write_text("\n")
    paths = {"file": tmp_path / "file", "empty": tmp_path / "empty"}
    problems = problems_of({"MODE": "local"} | {name: value.format(**paths) for name, value in environ.items()})
    assert list(problems) == [variable]
    assert "hunter22" not in problems[variable]


SECRETS = {
    name: f"{name.lower()}-value"
    for name in (
        "AUTH_TOKEN",
        "REDIS_PASSWORD",
        "DAYTONA_API_KEY",
        "STIGMER_API_KEY",
        "OPENAI_API_KEY",
        "ANTHROPIC_API_KEY",
        "STIGMER_LLM_API_KEY",
    )
} | {"OTEL_EXPORTER_OTLP_HEADERS": "x-key=header-value"}


@pytest.mark.parametrize(
    ("environ", "text"),
    [
        ({"REDIS_CLUSTER_NODES": "one"}, "should be host:port or [IPv6]:port"),
        ({"REDIS_CLUSTER_NODES": "one:6379", "REDIS_HOST": "redis"}, "should not be set together with REDIS_HOST"),
        ({"REDIS_SENTINELS": "one:26379,two"}, "should be host:port or [IPv6]:port"),
        ({"REDIS_SENTINELS": "unix:/run/redis"}, "several separated by commas"),
        ({"REDIS_SENTINELS": "one:26379", "REDIS_HOST": "redis"}, "should not be set together with REDIS_HOST"),
    ],
)
def test_sentinels_and_nodes_are_addresses_and_say_alone_where_redis_is(environ: dict[str, str], text: str) -> None:
    problems = problems_of({"DAYTONA_API_KEY": "dtn_k", "STIGMER_API_KEY": "k", **environ})
    (variable,) = problems
    assert variable in environ
    assert text in problems[variable]


def test_no_secret_is_shown_anywhere_and_each_is_known_for_redaction() -> None:
    settings = load_settings(CLOUD | SECRETS)
    shown = [repr(settings), str(settings), *map(str, describe(settings))]
    assert not [text for text in shown for secret in settings.secrets() if secret in text]
    assert set(settings.secrets()) == {*SECRETS.values(), "header-value"}
    text = str(problems_of(SECRETS | {"AUTH_TOKEN": "hunter 22", "MODE": "x"}))
    assert "hunter" not in text


def test_the_token_in_a_file_is_known_for_redaction_also_after_it_has_changed(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first-token\n")
    settings = load_settings({"MODE": "local", "AUTH_TOKEN_FILE": str(file)})
    assert settings.secrets() == ["first-token"]
    file.write_text("second-token")
    assert settings.secrets() == ["second-token"]


def test_the_daemons_public_key_is_no_secret() -> None:
    assert DUMMY_API_KEY not in load_settings(LOCAL_BLOCK).secrets()


def test_settings_are_frozen() -> None:
    with pytest.raises(AttributeError):
        load_settings(LOCAL_BLOCK).mode = "cloud"


@pytest.mark.parametrize(
    ("environ", "variable"),
    [
        ({"STIGMER_LLM_PROVIDER": "anthropic"}, "STIGMER_LLM_API_KEY"),
        ({"STIGMER_LLM_PROVIDER": "openai", "STIGMER_LLM_API_KEY": "k"}, "STIGMER_LLM_MODEL"),
        ({"LISTEN_ADDRESS": "0.0.0.0:1", "AUTH_TOKEN": "0123456789abcdef"}, "TLS_CERT_FILE"),
        (
            {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4317", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            "OTEL_EXPORTER_OTLP_PROTOCOL",
        ),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:1", "OTEL_TRACES_EXPORTER": "zipkin"}, "OTEL_TRACES_EXPORTER"),
    ],
)
def test_what_will_disappoint_later_is_a_warning_now(environ: dict[str, str], variable: str) -> None:
    assert [warning.variable for warning in warnings_about(load_settings({"MODE": "local", **environ}))] == [variable]
    assert warnings_about(load_settings(LOCAL_BLOCK)) == []


def test_every_variable_is_described_with_its_value_where_it_is_from_and_its_meaning() -> None:
    rows = {row.variable: row for row in describe(load_settings(LOCAL_BLOCK | {"DRAIN_TIMEOUT": "2.5"}))}
    assert set(rows) == {name.upper() for name in Settings.names()}
    assert all(row.meaning.endswith((".", "…")) and len(row.meaning) > 10 for row in rows.values())
    assert (rows["DRAIN_TIMEOUT"].value, rows["DRAIN_TIMEOUT"].source) == ("2.5", "env")
    assert (rows["LISTEN_ADDRESS"].value, rows["LISTEN_ADDRESS"].source) == ("localhost:50052", "default")
    assert rows["REDIS_HOST"].value == ""


def test_secrets_that_are_weak_or_open_to_others_are_named(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("short")
    (tmp_path / "token").chmod(0o644)
    (tmp_path / "strong").write_text("0123456789abcdef")
    (tmp_path / "strong").chmod(0o600)

    def warned(**environ: str) -> dict[str, str]:
        settings = load_settings({"MODE": "local", "STIGMER_LLM_PROVIDER": "scripted", **environ})
        return {each.variable: each.text for each in warnings_about(settings)}

    assert "shorter than 16" in warned(AUTH_TOKEN="short")["AUTH_TOKEN"]
    assert "mode 0644" in warned(AUTH_TOKEN_FILE=str(tmp_path / "token"))["AUTH_TOKEN_FILE"]
    assert "AUTH_TOKEN_FILE" not in warned(AUTH_TOKEN_FILE=str(tmp_path / "strong"))
    assert "in the clear" in warned(AUTH_TOKEN="0123456789abcdef", LISTEN_ADDRESS="0.0.0.0:1")["TLS_CERT_FILE"]


def test_two_listeners_at_one_address_are_refused() -> None:
    with pytest.raises(SettingsError) as refused:
        load_settings({"MODE": "local", "LISTEN_ADDRESS": "localhost:1", "HEALTH_ADDRESS": "127.0.0.1:1"})
    assert [each.variable for each in refused.value.problems] == ["HEALTH_ADDRESS"]
