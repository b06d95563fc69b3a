"""Coming back without an id."""

import json
import os
import signal
from pathlib import Path

from tests.cli.command_line import CommandLine, eventually, is_alive


def sessions(shell: CommandLine) -> dict[str, str]:
    lines = shell("ps", "--all", "--json").stdout.splitlines()
    return {each["execution_id"]: each["session_id"] for each in map(json.loads, lines)}


def test_continue_goes_on_with_the_newest_session_where_it_worked(alone: CommandLine) -> None:
    here, there = alone.directory / "here", alone.directory / "there"
    alone("run", "--id", "first", "--root", str(here), "echo one > file")
    alone.stop_service()
    alone("run", "--id", "other", "--root", str(there), "true")
    alone.stop_service()

    done = alone("run", "--id", "second", "--root", str(here), "--continue", "cat file")
    assert done.returncode == 2, "--id names an execution of its own"
    done = alone("run", "--root", str(here), "--continue", "cat file")

    assert done.returncode == 0, done.stderr
    assert "[1] | one" in done.stdout
    assert sorted(sessions(alone).values()) == ["first", "first", "other"]


def test_continue_finds_a_session_below_the_current_directory(alone: CommandLine) -> None:
    alone("run", "--id", "first", "--root", "project", "echo one > file")
    alone.stop_service()
    done = alone("run", "--continue", "cat file")
    assert "[1] | one" in done.stdout, done.stderr


def test_continue_without_a_session_here_is_an_error_that_says_so(alone: CommandLine, tmp_path: Path) -> None:
    done = alone("run", "--continue", "hello")
    assert done.returncode == 2
    assert "no session to continue here" in done.stderr
    assert not alone.state_dir.exists()


def test_events_last_shows_the_newest_execution(alone: CommandLine) -> None:
    alone("run", "--id", "first", "echo one")
    alone("run", "--id", "second", "echo two")
    assert "[1] | two" in alone("events", "--last").stdout
    assert alone("events").returncode == 2
    assert alone("events", "first", "--last").returncode == 2


def test_ps_filters_by_labels_and_age(alone: CommandLine, service: CommandLine) -> None:
    for shell in (alone, service):
        shell("run", "--id", "marked", "--label", "ticket=1", "--label", "team=a", "true")
        shell("run", "--id", "other", "--label", "ticket=2", "true")

        def listed(*options: str, shell: CommandLine = shell) -> list[str]:
            lines = shell("ps", "--all", "--json", *options).stdout.splitlines()
            return [json.loads(line)["execution_id"] for line in lines]

        assert listed("--label", "ticket=1") == ["marked"]
        assert listed("--label", "ticket=1", "--label", "team=b") == []
        assert "other" in listed("--since", "1h")
        assert listed("--since", "0s") == []
    assert alone("ps", "--label", "ticket").returncode == 2
    assert alone("ps", "--since", "tomorrow").returncode == 2


def test_an_interrupted_execution_is_resumed_in_its_own_directory(alone: CommandLine) -> None:
    command = "until [ -e go ]; do sleep 0.02; done"
    with alone.start("run", "--id", "work", "--root", "place", command) as run:
        eventually((alone.directory / "place").exists)
        eventually(lambda: "running" in alone("ps").stdout)
        eventually(lambda: any("tool_call_started" in event for event in alone.events("work")))
        run.kill()
        pid = alone.service()["pid"]
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: not is_alive(pid))
    done = alone("run", "--id", "work", command)
    assert done.returncode == 0, done.stderr
    assert f"in {alone.directory / 'place'}, resumed" in done.stdout, done.stdout
