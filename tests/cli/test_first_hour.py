"""What goes wrong in the first hour is told with its place and the next step."""

import pytest
from tests.cli.command_line import CommandLine
from tests.ports import free_port


def without_provider(shell: CommandLine) -> dict[str, str]:
    return {name: value for name, value in shell.environ.items() if not name.startswith("STIGMER_LLM")}


def test_an_ollama_that_is_not_there_is_named_with_what_to_do(alone: CommandLine) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    alone.environ = without_provider(alone) | {"OLLAMA_BASE_URL": address}
    done = alone("run", "--timeout", "60", "hello")
    assert done.returncode == 1
    assert f"is Ollama at {address}?" in done.stderr
    assert "`ollama serve` starts it" in done.stderr
    assert "--model scripted" in done.stderr


def test_a_missing_key_is_told_before_a_service_is_started(alone: CommandLine) -> None:
    done = alone("run", "--model", "openai/gpt-4.1-mini", "hello")
    assert done.returncode == 78
    assert "there is no key for openai: set OPENAI_API_KEY" in done.stderr
    assert "--model" in done.stderr
    assert "agent.model" not in done.stderr
    assert not alone.state_dir.exists()


@pytest.mark.parametrize(
    ("model", "variable"),
    [("gpt-4.1-mini", "OPENAI_API_KEY"), ("o3", "OPENAI_API_KEY"), ("claude-sonnet-4.5", "ANTHROPIC_API_KEY")],
)
def test_a_model_of_a_known_family_finds_its_provider(alone: CommandLine, model: str, variable: str) -> None:
    alone.environ = without_provider(alone)
    done = alone("run", "--model", model, "hello")
    assert done.returncode == 78
    assert f"set {variable}" in done.stderr


def test_a_model_of_no_known_family_is_asked_for_its_provider(alone: CommandLine) -> None:
    alone.environ = without_provider(alone)
    done = alone("run", "--model", "frobnicator-3", "hello")
    assert done.returncode == 2
    assert "--model ollama/frobnicator-3" in done.stderr


def test_version_is_an_option_too(alone: CommandLine) -> None:
    assert alone("--version").stdout == alone("version").stdout


@pytest.mark.parametrize("command", [("run", "hello"), ("serve",), ("ps",)])
def test_a_state_dir_that_cannot_be_exits_with_78(alone: CommandLine, command: tuple[str, ...]) -> None:
    (alone.directory / "file").touch()
    state_dir = str(alone.directory / "file" / "state")
    done = alone(*command, STATE_DIR=state_dir, MODE="local", LISTEN_ADDRESS="127.0.0.1:0")
    assert done.returncode == 78, done.stderr
    assert f"STATE_DIR {state_dir} cannot be used" in done.stderr
    assert "Traceback" not in done.stderr
