"""The service that a command finds, or starts for itself."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from threading import Thread

import pytest
from tests.cli.command_line import CommandLine, eventually, is_alive, running, shown_to_others

from runner_service.state_dir import find_service


def test_run_starts_a_service_that_goes_away_when_idle_and_leaves_nothing(alone: CommandLine) -> None:
    go = alone.directory / "go"
    with alone.start("run", f"until [ -e {go} ]; do sleep 0.02; done; echo hello") as run:
        eventually((alone.state_dir / "service.json").exists)
        pid = alone.service()["pid"]
        go.touch()
        out = run.communicate()[0]
    assert run.returncode == 0
    assert "[1] | hello" in out
    assert (alone.directory / "workspace").is_dir()
    eventually(lambda: not is_alive(pid))
    assert not (alone.state_dir / "service.json").exists()
    assert not (alone.state_dir / "service.sock").exists()


def test_a_second_run_shares_the_service_of_the_first(alone: CommandLine) -> None:
    go = alone.directory / "go"
    with alone.start("run", f"until [ -e {go} ]; do sleep 0.02; done") as first:
        eventually((alone.state_dir / "service.json").exists)
        pid = alone.service()["pid"]
        assert "[1] | hello" in alone("run", "echo hello").stdout
        assert alone.service()["pid"] == pid
        go.touch()
        first.communicate()
    assert first.returncode == 0


def test_two_runs_that_begin_at_once_end_up_with_one_service(alone: CommandLine) -> None:
    with alone.start("run", "--quiet", "echo one") as one, alone.start("run", "--quiet", "echo two") as two:
        assert one.communicate()[0].startswith("It said: one"), "the first found no service"
        assert two.communicate()[0].startswith("It said: two"), "the second found no service"


def test_a_detached_run_goes_on_in_a_service_without_any_command(alone: CommandLine) -> None:
    (execution_id,) = alone("run", "--detach", "sleep 3; echo went on").stdout.split()
    followed = alone("events", execution_id, "--follow")
    assert followed.returncode == 0
    assert "[1] | went on" in followed.stdout


def test_what_a_service_that_is_gone_left_in_the_log_can_be_looked_at(alone: CommandLine) -> None:
    alone("run", "--id", "old", "echo hello")
    alone.stop_service()
    assert "[1] | hello" in alone("events", "old").stdout
    assert alone("output", "old", "1").stdout == "hello\n"


def test_looking_starts_a_service_only_for_a_log_that_is_there_and_makes_no_workspace(alone: CommandLine) -> None:
    nothing = alone("ps", "--all")
    assert nothing.returncode == 0
    assert nothing.stdout.splitlines()[1:] == []
    assert str(alone.state_dir) in nothing.stderr
    unknown = alone("events", "nobody")
    assert unknown.returncode == 1
    assert unknown.stderr == nothing.stderr
    assert [entry.name for entry in alone.directory.iterdir()] == ["script.yaml"]

    alone("run", "--root", "elsewhere", "--id", "old", "echo hello")
    alone.stop_service()
    assert "old " in alone("ps", "--all").stdout
    assert sorted(entry.name for entry in alone.directory.iterdir()) == ["elsewhere", "script.yaml", "state"]


def test_finished_executions_are_shown_without_starting_a_service(alone: CommandLine) -> None:
    alone("run", "--id", "old", "echo hello")
    alone.stop_service()
    before = (alone.state_dir / "service.log").read_text()

    assert "old " in alone("ps", "--all").stdout
    assert "[1] | hello" in alone("events", "old", "--follow").stdout
    assert alone("output", "old", "1", "--follow").stdout == "hello\n"
    assert alone("events", "unknown").returncode == 1

    assert (alone.state_dir / "service.log").read_text() == before
    assert not (alone.state_dir / "events.db-wal").exists()


def test_a_log_of_another_format_is_left_to_the_service(alone: CommandLine) -> None:
    alone("run", "--id", "old", "echo hello")
    alone.stop_service()
    with closing(sqlite3.connect(alone.state_dir / "events.db")) as database:
        database.execute("PRAGMA user_version = 99")
    done = alone("ps", "--all")
    assert done.returncode == 75
    assert "schema version 99" in done.stderr
    assert (alone.state_dir / "service.log").read_text().count("schema version 99") == 1  # it is not tried again


def test_a_run_waits_for_a_service_that_is_stopping_and_says_so(alone: CommandLine) -> None:
    go = alone.directory / "go"
    other = {"SANDBOX_ROOT_DIR": str(alone.directory / "other"), "DRAIN_TIMEOUT": "60"}
    service = running(alone, LISTEN_ADDRESS="127.0.0.1:0", **other)
    with service:
        alone("run", "--detach", f"until [ -e {go} ]; do sleep 0.02; done", **other)
        service.process.send_signal(signal.SIGTERM)
        eventually(lambda: alone.service().get("stopping"))
        with alone.start("run", "--quiet", "echo hello") as run:
            assert run.stderr is not None
            assert run.stderr.readline() == (
                f"runner-service: waiting for the service with pid {service.process.pid}, which is stopping\n"
            )
            go.touch()
            assert run.communicate()[0].startswith("It said: hello")


def test_looking_needs_no_service_for_the_same_directory(alone: CommandLine) -> None:
    with running(alone, SANDBOX_ROOT_DIR=str(alone.directory / "other"), LISTEN_ADDRESS="127.0.0.1:0"):
        assert alone("ps").returncode == 0


def test_a_service_for_another_directory_is_an_error_that_says_what_to_do(alone: CommandLine) -> None:
    with running(alone, SANDBOX_ROOT_DIR=str(alone.directory / "other"), LISTEN_ADDRESS="127.0.0.1:0"):
        done = alone("run", "hello")
    assert done.returncode == 69
    assert f"works in {alone.directory / 'other'}" in done.stderr
    assert "set STATE_DIR to another directory" in done.stderr


def test_a_service_that_was_killed_is_not_taken_for_one_that_lives(alone: CommandLine) -> None:
    service = running(alone, LISTEN_ADDRESS="127.0.0.1:0")
    with service:
        service.kill()
        assert (alone.state_dir / "service.json").exists()
        assert alone("run", "--quiet", "echo hello").stdout.startswith("It said: hello")


def test_a_state_dir_too_long_for_a_socket_works_too(alone: CommandLine) -> None:
    alone.environ["STATE_DIR"] += "/long" * 25
    assert alone("run", "--quiet", "echo hello").stdout.startswith("It said: hello")


def test_keys_in_the_environment_reach_our_service_and_no_environment(alone: CommandLine) -> None:
    go = alone.directory / "go"
    alone.environ |= {"OPENAI_API_KEY": "sk-tell-nobody-this", "TOKEN_OF_MINE": "tell-nobody-that"}
    command = f"env; until [ -e {go} ]; do sleep 0.02; done"
    with alone.start("run", "--id", "keys", "--secret", "TOKEN_OF_MINE", command) as run:
        eventually((alone.state_dir / "service.json").exists)
        shown = shown_to_others(alone.service()["pid"])
        go.touch()
        out = run.communicate()[0]
    assert run.returncode == 0
    assert "tell-nobody" not in shown
    assert "TOKEN_OF_MINE=" in out
    assert "OPENAI_API_KEY" not in out
    assert "tell-nobody" not in out
    assert "tell-nobody" not in (alone.state_dir / "service.log").read_text()


def test_a_wrong_environment_is_told_whole_and_exits_with_78(alone: CommandLine) -> None:
    done = alone("run", "hello", LOG_LEVEL="loud", STIGMER_LLM_PROVIDER="nobody")
    assert done.returncode == 78
    assert "LOG_LEVEL" in done.stderr
    assert "STIGMER_LLM_PROVIDER" in done.stderr


def test_a_state_dir_that_cannot_be_used_is_an_error_that_names_it(alone: CommandLine) -> None:
    (alone.directory / "file").touch()
    done = alone("run", "hello", STATE_DIR=str(alone.directory / "file" / "state"))
    assert done.returncode == 78
    assert f"STATE_DIR {alone.directory / 'file' / 'state'} cannot be used" in done.stderr


def test_a_module_in_the_working_directory_is_not_taken_for_one_of_ours(alone: CommandLine) -> None:
    (alone.directory / "grpc.py").write_text("raise SystemExit('not this one')")
    program = Path(sys.executable).with_name("runner-service")
    command = [str(program), "run", "--quiet", "echo hello"]
    done = subprocess.run(
        command, cwd=alone.directory, env=alone.environ, capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.startswith("It said: hello"), done.stderr


@pytest.mark.parametrize(("greeting", "is_found"), [(b"", False), (b"\0", True)])
def test_a_service_that_is_just_being_killed_accepts_a_connection_but_is_not_found(
    tmp_path: Path, greeting: bytes, *, is_found: bool
) -> None:
    path = tmp_path / "service.sock"
    facts = {"address": f"unix:{path}", "pid": os.getpid(), "sandbox_root": "", "mode": "local"}
    (tmp_path / "service.json").write_text(json.dumps(facts))
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        listener.bind(str(path))
        listener.listen()

        def answer() -> None:
            with listener.accept()[0] as caller:
                caller.sendall(greeting)

        answering = Thread(target=answer)
        answering.start()
        found = find_service(tmp_path)
        answering.join()

    assert (found is not None) == is_found
