"""`events`, `ps`, `cancel` and `output`."""

import json
import subprocess

import pytest
from tests.cli.command_line import PROGRAM, CommandLine, eventually


@pytest.fixture(scope="module")
def told(service: CommandLine) -> str:
    """An execution that has ended, whose command wrote to both streams."""
    assert service("run", "--id", "told", r"printf 'one\ntwo\0\377\n'; printf 'oops' >&2").returncode == 0
    return "told"


def test_events_replays_what_run_showed(service: CommandLine, told: str) -> None:
    replayed = service("events", told)
    again = service("run", "--id", told, r"printf 'one\ntwo\0\377\n'; printf 'oops' >&2")
    assert replayed.returncode == 0
    assert replayed.stdout == again.stdout
    assert "[1] | one" in replayed.stdout


def test_events_after_n_begins_in_the_middle_with_the_same_numbers(service: CommandLine, told: str) -> None:
    finished = next(event for event in service.events(told) if "tool_call_finished" in event)
    done = service("events", told, "--after", str(int(finished["sequence"]) - 1))
    unended, result, *_ = done.stdout.splitlines()
    assert unended == "[1] ! oops"  # a line that nothing had ended yet
    assert result.startswith("[1] = exit 0")
    (first, *_) = service("events", told, "--json", "--after", finished["sequence"]).stdout.splitlines()
    assert int(json.loads(first)["sequence"]) == int(finished["sequence"]) + 1


def test_events_without_follow_ends_at_the_newest_event_of_one_that_runs(service: CommandLine) -> None:
    service("run", "--detach", "--id", "endless", "sleep 60")
    shown = service("events", "endless")
    assert shown.returncode == 0
    assert "succeeded" not in shown.stdout
    service("cancel", "endless")
    followed = service("events", "endless", "--follow")
    assert followed.returncode == 3
    assert followed.stdout.splitlines()[-1].startswith("cancelled in ")


def test_ps_lists_what_has_not_ended_and_all_of_them_when_asked(service: CommandLine, told: str) -> None:
    service("run", "--detach", "--id", "busy", "sleep 60")
    header, *running = [line.split() for line in service("ps").stdout.splitlines()]
    assert header[:2] == ["ID", "STATE"]
    assert ["busy", "running"] in [line[:2] for line in running]
    assert told not in [line[0] for line in running]
    everything = [line.split()[:2] for line in service("ps", "--all").stdout.splitlines()]
    assert [told, "succeeded"] in everything
    service("cancel", "busy")


def test_cancel_says_what_it_found(service: CommandLine, told: str) -> None:
    service("run", "--detach", "--id", "doomed", "sleep 60")
    assert service("cancel", "doomed").stdout == "doomed was running: ending\n"
    assert service("cancel", told).stdout == "told had already ended: succeeded\n"
    unknown = service("cancel", "nobody")
    assert unknown.returncode == 1
    assert "ps --all" in unknown.stderr


def test_output_is_what_the_command_wrote_byte_for_byte(service: CommandLine, told: str) -> None:
    def output(*arguments: str) -> bytes:
        command = [*PROGRAM, "output", told, *arguments]
        return subprocess.run(command, env=service.environ, check=True, stdout=subprocess.PIPE, timeout=60).stdout

    assert output("1") == b"one\ntwo\0\xff\n"
    assert output("1", "--stderr") == b"oops"
    call_id = next(e["tool_call_started"]["tool_call_id"] for e in service.events(told) if "tool_call_started" in e)
    assert output(call_id) == b"one\ntwo\0\xff\n"


def test_output_follow_reads_until_the_execution_ends(service: CommandLine) -> None:
    go = service.directory / "go-output"
    service("run", "--detach", "--id", "writer", f"echo one; until [ -e {go} ]; do sleep 0.02; done; echo two")
    eventually(lambda: any("tool_call_started" in event for event in service.events("writer")))
    with service.start("output", "writer", "1", "--follow") as reading:
        assert reading.stdout is not None
        assert reading.stdout.readline() == "one\n"
        go.touch()
        assert reading.stdout.read() == "two\n"
    assert reading.returncode == 0


def test_output_of_a_call_that_was_never_made_says_how_many_there_are(service: CommandLine, told: str) -> None:
    done = service("output", told, "2")
    assert done.returncode == 1
    assert "has made 1 tool call so far" in done.stderr


def test_delete_takes_ids_or_a_session(service: CommandLine) -> None:
    service("run", "--id", "doomed-1", "true")
    service("run", "--id", "doomed-2", "--session", "doomed-session", "true")
    assert service("delete").returncode == 2
    assert service("delete", "doomed-1").stdout == "doomed-1 deleted\n"
    done = service("delete", "--session", "doomed-session")
    assert done.stdout == "session doomed-session deleted, with 1 execution\n"
    assert service("events", "doomed-2").returncode == 1
    assert service("delete", "doomed-1").returncode == 1
