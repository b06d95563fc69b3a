"""Approvals on the command line: a question at the terminal, another terminal, and no terminal at all."""

import json

from tests.cli.command_line import CommandLine
from tests.cli.terminal import CTRL_C, Terminal


def test_a_person_is_asked_and_the_command_runs_once_approved(service: CommandLine) -> None:
    with Terminal(service, "run", "--ask", "commands", "echo done > approved") as terminal:
        terminal.wait_for("The agent wants to run: $ echo done > approved")
        terminal.wait_for("run it? [y/")
        assert not (service.directory / "workspace" / "approved").exists()
        terminal.type("y\n")
        assert terminal.exit_code() == 0
    assert (service.directory / "workspace" / "approved").exists()


def test_a_refusal_takes_a_reason_to_the_model(service: CommandLine) -> None:
    with Terminal(service, "run", "--ask", "commands", "rm -rf /nothing") as terminal:
        terminal.wait_for("run it? [y/")
        terminal.type("n\n")
        terminal.wait_for("why, for the model")
        terminal.type("use the bin\n")
        assert terminal.exit_code() == 0
    assert "the user refused this: use the bin" in terminal.text


def test_what_always_means_is_said_and_kept_for_the_session(service: CommandLine) -> None:
    with Terminal(service, "run", "--ask", "commands", "--session", "always", "git --version") as terminal:
        terminal.wait_for("run it? [y/a/")
        terminal.type("a\n")
        terminal.wait_for("commands that begin with `git --version`")
        assert terminal.exit_code() == 0

    again = service("run", "--ask", "commands", "--session", "always", "git --version")

    assert again.returncode == 0
    assert "git version" in again.stdout


def test_another_terminal_may_answer_and_the_question_goes_away(service: CommandLine) -> None:
    with Terminal(service, "run", "--ask", "commands", "--id", "elsewhere", "echo there") as terminal:
        terminal.wait_for("run it? [y/")
        listed = service("approvals", "--json")
        assert json.loads(listed.stdout)["execution_id"] == "elsewhere"
        assert service("approve", "elsewhere").returncode == 0
        terminal.wait_for("decided elsewhere")
        assert terminal.exit_code() == 0
    assert "  | there" in terminal.text or "there" in terminal.text


def test_ctrl_c_at_a_question_leaves_it_waiting_and_says_how_to_come_back(service: CommandLine) -> None:
    with Terminal(service, "run", "--ask", "commands", "--id", "later", "echo later") as terminal:
        terminal.wait_for("run it? [y/")
        terminal.type(CTRL_C)
        terminal.wait_for("left waiting; to decide: runner-service approve later")
        assert terminal.exit_code() == 130
    assert service("reject", "later", "-m", "no longer").returncode == 0
    followed = service("events", "later", "--follow")
    assert "the user refused this: no longer" in followed.stdout


def test_continuing_a_session_asks_first_about_what_waits_in_it(service: CommandLine) -> None:
    with Terminal(service, "run", "--ask", "commands", "--session", "open", "--id", "before", "echo one") as terminal:
        terminal.wait_for("run it? [y/")
        terminal.type(CTRL_C)
        assert terminal.exit_code() == 130
    with Terminal(service, "run", "--session", "open", "echo two") as terminal:
        terminal.wait_for("The agent wants to run: $ echo one")
        terminal.type("y\n")
        assert terminal.exit_code() == 0
    assert "STATE_SUCCEEDED" in service("ps", "--all", "--json", "--session", "open").stdout
    assert service("events", "before").returncode == 0


def test_without_a_terminal_calls_that_ask_are_refused(service: CommandLine) -> None:
    done = service("run", "--ask", "commands", "echo x")
    assert "nobody is there to approve this" in done.stdout
    assert done.returncode == 0


def test_the_one_call_that_waits_needs_no_name_and_none_is_an_error_that_says_so(service: CommandLine) -> None:
    assert service("run", "--id", "ended", "true").returncode == 0
    refused = service("approve", "ended")
    assert refused.returncode != 0
    assert "nothing of ended waits for a decision" in refused.stderr
