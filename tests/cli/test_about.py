"""`check`, `version`, `completion`, and the help."""

import json
import subprocess
import sys
from collections.abc import Callable

import pytest
from tests.cli.command_line import CommandLine, eventually, running

COMMANDS = (
    "run",
    "serve",
    "events",
    "ps",
    "cancel",
    "output",
    "diff",
    "undo",
    "delete",
    "approvals",
    "approve",
    "reject",
    "web",
    "token",
    "check",
    "health",
    "version",
    "completion",
)
HEAVY = ("grpc", "pydantic", "rich", "langchain_core", "langgraph", "deepagents", "opentelemetry")


def test_version_names_what_it_stands_on(alone: CommandLine) -> None:
    facts = json.loads(alone("version", "--json").stdout)
    assert facts["python"] == ".".join(map(str, sys.version_info[:3]))
    assert alone("version").stdout.startswith(f"runner-service {facts['version']} (Python {facts['python']}, gRPC ")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_with_examples_and_exit_codes(alone: CommandLine, command: str) -> None:
    done = alone(command, "--help")
    assert done.returncode == 0
    assert "Examples:\n" in done.stdout
    assert "Exit codes:\n" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100


def test_help_lists_the_commands_in_the_order_of_need(alone: CommandLine) -> None:
    lines = alone("--help").stdout.partition("Commands:\n")[2].splitlines()
    assert tuple(line.split()[0] for line in lines[: len(COMMANDS)]) == COMMANDS


def _modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    return {name.partition(".")[0] for name in done.stdout.split()}


def test_help_imports_nothing_heavy() -> None:
    assert not _modules_after("import runner_service.cli").intersection(HEAVY)


def test_serve_imports_neither_agent_nor_pydantic_nor_colours_nor_what_verifies_callers() -> None:
    """pydantic takes a sixth of the memory and a quarter of the time until the first answer."""
    loaded = _modules_after("import runner_service.cli.actions.serve")
    verifying = {"aiohttp", "cryptography", "jwt", "yaml"}
    assert not loaded & {"rich", "langchain_core", "langgraph", "deepagents", "pydantic", *verifying}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script_for_the_shell(alone: CommandLine, shell: str) -> None:
    done = alone("completion", shell)
    assert done.returncode == 0
    assert "_RUNNER_SERVICE_COMPLETE" in done.stdout


def _completed(shell: CommandLine, words: str, **environ: str) -> list[str]:
    position = str(len(words.split(" ")) - 1)
    asked = {"_RUNNER_SERVICE_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": position}
    done = shell(**asked, **environ)
    assert done.stderr == ""
    return [line.removeprefix("plain,") for line in done.stdout.split()]


def test_what_the_script_asks_is_answered(alone: CommandLine) -> None:
    assert _completed(alone, "runner-service ca") == ["cancel"]


def test_ids_of_executions_sessions_and_calls_are_completed_by_the_running_service(service: CommandLine) -> None:
    service("run", "--id", "completed-1", "--session", "completed", "true")
    service("run", "--id", "completed-2", "--detach", "sleep 60")

    def is_answered(words: str, *ids: str) -> Callable[[], bool]:
        return lambda: _completed(service, f"runner-service {words}") == list(ids)

    # Of a service that takes more than a second to answer there are none.
    eventually(is_answered("events completed-", "completed-2", "completed-1"))
    eventually(is_answered("cancel completed-", "completed-2"))
    eventually(is_answered("output completed-1 ", "1"))
    eventually(is_answered("run --session compl", "completed-2", "completed"))
    assert _completed(service, "runner-service ps --server 127.0.0.1:1 --session compl") == []
    service("cancel", "completed-2")


def test_completing_starts_no_service(alone: CommandLine) -> None:
    assert _completed(alone, "runner-service events ") == []
    assert not alone.state_dir.exists()


def test_check_shows_masked_settings_and_what_it_tried(alone: CommandLine) -> None:
    done = alone("check", MODE="local", OPENAI_API_KEY="sk-tell-nobody-this", LISTEN_ADDRESS="127.0.0.1:0")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "STATE_DIR" in done.stdout
    assert "********  (set)" in done.stdout
    assert "sk-tell-nobody-this" not in done.stdout
    assert "\nok    " in done.stdout


def test_check_exits_with_1_when_something_would_not_work(alone: CommandLine, service: CommandLine) -> None:
    done = alone("check", MODE="local", LISTEN_ADDRESS=service.environ["RUNNER_SERVICE_ADDRESS"])
    assert done.returncode == 1
    assert "\nFAIL  " in done.stdout


def test_check_knows_the_service_that_holds_its_state_directory(service: CommandLine) -> None:
    about = service.service()
    done = service("check", MODE="local", LISTEN_ADDRESS=about["address"])
    assert done.returncode == 0, done.stdout
    assert f"listens, pid {about['pid']}\n" in done.stdout


def test_check_says_for_which_mode_and_how_to_check_the_other(alone: CommandLine) -> None:
    cloud = alone("check")
    assert cloud.returncode == 78
    assert "DAYTONA_API_KEY" in cloud.stderr
    assert "because MODE is unset" in cloud.stdout
    assert "MODE=local runner-service check" in cloud.stdout
    assert alone("check", MODE="local").stdout.startswith("This checks what `serve` needs with MODE=local.\n")


def test_check_tells_each_variable_that_is_wrong(alone: CommandLine) -> None:
    done = alone("check", MODE="local", LOG_LEVEL="loud", STATE_DIR="", LISTEN_ADDRESS="here")
    assert done.returncode == 78
    assert "LOG_LEVEL" in done.stderr
    assert "LISTEN_ADDRESS" in done.stderr


def test_health_tells_by_its_exit_code_whether_a_service_is_there(alone: CommandLine, service: CommandLine) -> None:
    assert alone("health").returncode == 69
    assert service("health").returncode == 0
    with running(alone, LISTEN_ADDRESS="127.0.0.1:0"):
        done = alone("health")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
