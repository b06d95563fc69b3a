"""What a person at a terminal sees, and what Ctrl-C does."""

from pathlib import Path

import pytest
from tests.cli.command_line import CommandLine, eventually, local_environ, running, shown_to_others
from tests.cli.terminal import CTRL_C, Terminal


def test_the_live_view_shows_output_while_the_command_still_runs(service: CommandLine) -> None:
    go = service.directory / "go-live"
    with Terminal(service, "run", f"echo early; until [ -e {go} ]; do sleep 0.02; done; echo late") as terminal:
        terminal.wait_for("  | early")
        assert "  | late" not in terminal.text
        assert "Ctrl-C cancels" in terminal.text
        go.touch()
        assert terminal.exit_code() == 0
    assert "  | late\n  = exit 0 in " in terminal.text
    assert terminal.raw.count("\x1b[?25l") == terminal.raw.count("\x1b[?25h") == 1  # the cursor is back


def test_the_live_view_folds_long_output_and_counts_the_middle(service: CommandLine) -> None:
    with Terminal(service, "run", "--id", "long", "seq 1 1000") as terminal:
        assert terminal.exit_code() == 0
    done = terminal.text.partition("[1] $ seq 1 1000\n")[2].splitlines()
    assert done[:4] == ["  | 1", "  | 2", "  | 3", "  | 4"]
    assert done[4] == "  | ... 990 lines more: runner-service output long 1"
    assert done[5:11] == [f"  | {number}" for number in range(995, 1001)]


def test_what_a_command_writes_cannot_move_the_cursor(service: CommandLine) -> None:
    with Terminal(service, "run", r"printf 'a\033[2Jb\033]0;title\007c\n'") as terminal:
        assert terminal.exit_code() == 0
    assert "  | abc\n" in terminal.text
    assert "\x1b[2J" not in terminal.raw
    assert "\x1b]0;" not in terminal.raw


def test_output_on_a_terminal_shows_control_characters_unless_raw(service: CommandLine) -> None:
    service("run", "--id", "controls", r"printf 'a\033[2Jb\n'")
    with Terminal(service, "output", "controls", "1") as terminal:
        assert terminal.exit_code() == 0
    assert "a^[[2Jb" in terminal.raw
    with Terminal(service, "output", "controls", "1", "--raw") as terminal:
        assert terminal.exit_code() == 0
    assert "a\x1b[2Jb" in terminal.raw


def test_a_long_line_is_folded_by_width_with_its_gutter(service: CommandLine) -> None:
    with Terminal(service, "run", "printf '%0150d\\n' 7") as terminal:
        assert terminal.exit_code() == 0
    assert f"  | {'0' * 96}\n  | {'0' * 53}7\n" in terminal.text


def test_ctrl_z_gives_the_cursor_back_and_the_view_goes_on_afterwards(service: CommandLine) -> None:
    go = service.directory / "go-suspended"
    with Terminal(service, "run", f"echo early; until [ -e {go} ]; do sleep 0.02; done; echo late") as terminal:
        terminal.wait_for("  | early")
        terminal.type("\x1a")
        terminal.wait_for_raw("\x1b[?25h")
        eventually(terminal.is_stopped)
        go.touch()
        terminal.resume()
        assert terminal.exit_code() == 0
    assert "  | late\n" in terminal.text


def test_the_status_line_says_that_the_model_is_waited_for(tmp_path: Path) -> None:
    turns = [{"text": "Hm.", "silence": 60}]
    shell = CommandLine(tmp_path, local_environ(tmp_path, {"turns": turns}))
    with (
        running(shell, LISTEN_ADDRESS="127.0.0.1:0") as address,
        Terminal(shell, "run", "--server", address, "hello") as terminal,
    ):
        terminal.wait_for("waiting for the model, ")
        terminal.type(CTRL_C)
        assert terminal.exit_code() == 130


def test_text_is_laid_out_as_markdown_when_a_block_of_it_is_complete(tmp_path: Path) -> None:
    text = "It is **done**, a List<T>:\n- one\n\n```sh\necho 1\n\necho 2\n```\nline\nby line [here](http://x.y)"
    shell = CommandLine(tmp_path, local_environ(tmp_path, {"turns": [{"text": text}]}))
    with running(shell, LISTEN_ADDRESS="127.0.0.1:0") as address:
        with Terminal(shell, "run", "--server", address, "hello") as terminal:
            assert terminal.exit_code() == 0
        piped = shell("run", "--server", address, "hello").stdout
    shown = [line.strip() for line in terminal.text.splitlines()]
    for line in ("It is done, a List<T>:", "• one", "echo 1", "echo 2", "line", "by line here (http://x.y)"):
        assert line in shown
    assert "\x1b[1mdone\x1b[0m" in terminal.raw
    assert f"\n{text}\n" in piped


def test_a_dumb_terminal_gets_plain_lines(service: CommandLine) -> None:
    with Terminal(service, "run", "echo hello", TERM="dumb") as terminal:
        assert terminal.exit_code() == 0
    assert "[1] | hello\n" in terminal.text
    assert "\x1b" not in terminal.raw


def test_ctrl_c_cancels_and_shows_the_end(service: CommandLine) -> None:
    with Terminal(service, "run", "--id", "once", "echo begun; sleep 60") as terminal:
        terminal.wait_for("  | begun")
        terminal.type(CTRL_C)
        assert terminal.exit_code() == 130
    assert "press it again to leave the execution running" in terminal.text
    assert "cancelled in " in terminal.text
    assert service.state("once") == "STATE_CANCELLED"


@pytest.mark.parametrize("view", [[], ["--plain"], ["--json"]])
def test_ctrl_c_twice_leaves_it_running_and_says_how_to_return(service: CommandLine, view: list[str]) -> None:
    name = f"twice{''.join(view)}"
    go = service.directory / f"go-{name}"
    command = f"echo begun; until [ -e {go} ]; do sleep 0.02; done; echo went on"
    with Terminal(service, "run", *view, "--id", name, command) as terminal:
        terminal.wait_for("tool_output" if view == ["--json"] else "| begun")
        terminal.type(CTRL_C)
        terminal.wait_for("press it again")
        terminal.type(CTRL_C)
        assert terminal.exit_code() == 130
    assert f"runner-service events {name} --follow" in terminal.text.replace("\n", " ").replace("  ", " ")
    assert service.state(name) == "STATE_RUNNING"  # asking takes longer than an execution waits for its caller
    go.touch()
    assert "[1] | went on" in service("events", name, "--follow").stdout


def test_ctrl_c_while_watching_leaves_the_execution_alone(service: CommandLine) -> None:
    service("run", "--detach", "--id", "watched", "echo begun; sleep 60")
    with Terminal(service, "events", "watched", "--follow") as terminal:
        terminal.wait_for("  | begun")
        terminal.type(CTRL_C)
        assert terminal.exit_code() == 130
    assert service.state("watched") == "STATE_RUNNING"
    service("cancel", "watched")


def test_being_terminated_leaves_the_terminal_in_order_and_the_execution_without_its_caller(
    service: CommandLine,
) -> None:
    with Terminal(service, "run", "--id", "orphan", "echo begun; sleep 60") as terminal:
        terminal.wait_for("  | begun")
        terminal.terminate()
        assert terminal.exit_code() == 143
    assert terminal.raw.count("\x1b[?25l") == terminal.raw.count("\x1b[?25h") == 1
    eventually(lambda: service.state("orphan") == "STATE_CANCELLED")


def test_ctrl_c_before_there_is_a_service_ends_the_command(alone: CommandLine) -> None:
    with Terminal(alone, "run", "sleep 60") as terminal:
        terminal.wait_for("Ctrl-C cancels")
        terminal.type(CTRL_C)
        assert terminal.exit_code() == 130
    assert "Traceback" not in terminal.text


def test_the_first_thing_to_be_seen_is_that_the_service_starts_and_it_goes_away(alone: CommandLine) -> None:
    with Terminal(alone, "run", "echo hello") as terminal:
        assert terminal.exit_code() == 0
    assert terminal.text.startswith("starting the service …")
    assert "starting the service …\r\x1b[K" in terminal.raw


def test_a_secret_is_asked_for_without_showing_it(service: CommandLine) -> None:
    with Terminal(service, "run", "--secret", "API_TOKEN", "echo ${#API_TOKEN} $API_TOKEN") as terminal:
        terminal.wait_for("API_TOKEN")
        terminal.type("tell-nobody-this\n")
        assert terminal.exit_code() == 0
    assert "  | 16 " in terminal.text
    assert "tell-nobody-this" not in terminal.text


def test_a_missing_key_is_asked_for_and_given_to_our_own_service_over_a_pipe(alone: CommandLine) -> None:
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:1", "OPENAI_BASE_URL": "http://127.0.0.1:1"}
    with Terminal(alone, "run", "--model", "openai/gpt", "--id", "keyed", "hello", **nowhere) as terminal:
        terminal.wait_for("OPENAI_API_KEY")
        terminal.type("sk-tell-nobody-this\n")
        eventually((alone.state_dir / "service.json").exists)
        shown = shown_to_others(alone.service()["pid"])
        assert "--secrets-fd" in shown
        assert "sk-tell-nobody-this" not in shown
        terminal.wait_for("execution keyed: openai/gpt")  # so the service has the key, or it would have refused
    assert "sk-tell-nobody-this" not in terminal.text


def test_serve_asks_for_a_missing_key_too(alone: CommandLine) -> None:
    with Terminal(
        alone, "serve", MODE="local", STIGMER_LLM_PROVIDER="openai", LISTEN_ADDRESS="127.0.0.1:0"
    ) as terminal:
        terminal.wait_for("OPENAI_API_KEY")
        terminal.type("sk-tell-nobody-this\n")
        terminal.wait_for("listening")
        assert "STIGMER_LLM_API_KEY" not in terminal.text  # the warning that there is none
        assert "runner-service: warning: STIGMER_LLM_MODEL is not set: " in terminal.text
        terminal.type(CTRL_C)
        assert terminal.exit_code() == 0
    assert "sk-tell-nobody-this" not in terminal.text
