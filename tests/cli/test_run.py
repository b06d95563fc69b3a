"""`run`: what it shows, and what its exit code says."""

import json
import signal
from pathlib import Path

import trustme
from tests.cli.command_line import OBEDIENT, CommandLine, eventually, local_environ, running


def test_piped_output_is_plain_lines_with_every_line_of_a_command(service: CommandLine) -> None:
    done = service("run", "--id", "plain", "echo one; echo two >&2; printf three")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert lines[0].startswith("execution plain: scripted/scripted in ")
    assert lines[1:3] == ["I run it.", "[1] $ echo one; echo two >&2; printf three"]
    assert {"[1] | one", "[1] ! two", "[1] | three"} <= set(lines)
    assert any(line.startswith("[1] = exit 0 in ") for line in lines)
    assert lines[-1].startswith("succeeded in ")
    assert "\x1b" not in done.stdout
    assert done.stderr == ""


def test_json_is_one_numbered_event_per_line(service: CommandLine) -> None:
    done = service("run", "--json", "--id", "machine", "echo hello")
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert [int(event["sequence"]) for event in events] == list(range(1, len(events) + 1))
    assert {event["execution_id"] for event in events} == {"machine"}
    assert events[0]["started"]["model"] == {"provider": "scripted", "name": "scripted"}
    assert events[-1]["finished"]["state"] == "STATE_SUCCEEDED"


def test_quiet_prints_the_answer_alone(service: CommandLine) -> None:
    done = service("run", "--quiet", "echo hello")
    assert done.stdout.startswith("It said: hello\n")
    assert "execution" not in done.stdout
    assert done.stderr == ""


def test_a_message_of_dash_is_what_standard_input_says(service: CommandLine) -> None:
    assert "[1] | from a pipe" in service("run", "-", stdin="echo from a pipe").stdout


def test_variables_reach_the_command_and_secrets_are_not_shown(service: CommandLine) -> None:
    done = service(
        "run",
        *("--env", "GREETING=hello", "--env", "PLACE", "--secret", "API_TOKEN"),
        "echo $GREETING $PLACE ${#API_TOKEN} $API_TOKEN",
        PLACE="world",
        API_TOKEN="tell-nobody-this",
    )
    assert "[1] | hello world 16 " in done.stdout
    assert "tell-nobody-this" not in done.stdout + done.stderr


def test_a_secret_with_a_value_on_the_command_line_is_refused_without_repeating_it(service: CommandLine) -> None:
    done = service("run", "--secret", "API_TOKEN=tell-nobody-this", "true")
    assert done.returncode == 2
    assert "API_TOKEN" in done.stderr
    assert "tell-nobody-this" not in done.stderr


def test_a_secret_that_is_nowhere_is_an_error_where_nobody_can_be_asked(service: CommandLine) -> None:
    done = service("run", "--secret", "NOWHERE", "true")
    assert done.returncode == 2
    assert "NOWHERE is not set in the environment" in done.stderr


def test_session_labels_and_agent_are_kept_with_the_execution(service: CommandLine) -> None:
    instructions = service.directory / "instructions.md"
    instructions.write_text("You list files.")
    options = ("--session", "kept", "--label", "team=red", "--instructions", f"@{instructions}", "--id", "labelled")
    assert service("run", *options, "true").returncode == 0
    (line,) = service("ps", "--all", "--session", "kept", "--json").stdout.splitlines()
    execution = json.loads(line)
    assert execution["execution_id"] == "labelled"
    assert execution["labels"] == {"team": "red"}
    assert execution["agent_name"] == "assistant"


def test_running_out_of_time_exits_with_124(service: CommandLine) -> None:
    done = service("run", "--timeout", "0.5", "sleep 60")
    assert done.returncode == 124
    assert done.stdout.splitlines()[-1].startswith("timed out in ")


def test_being_cancelled_by_somebody_else_exits_with_3(service: CommandLine) -> None:
    with service.start("run", "--id", "unloved", "echo begun; sleep 60") as run:
        assert run.stdout is not None
        while "[1] | begun" not in run.stdout.readline():
            pass
        assert service("cancel", "unloved", "--reason", "enough of it").returncode == 0
        rest = run.communicate()[0]
    assert run.returncode == 3
    assert "enough of it" in rest.splitlines()[-1]


def test_failing_exits_with_1_and_says_why(tmp_path: Path) -> None:
    script = {"turns": [{"error": {"status": 400, "message": "no such thing"}}]}
    shell = CommandLine(tmp_path, local_environ(tmp_path, script) | {"LISTEN_ADDRESS": "127.0.0.1:0"})
    with running(shell) as address:
        done = shell("run", "--server", address, "hello")
        quiet = shell("run", "--quiet", "--server", address, "hello")
    assert done.returncode == quiet.returncode == 1
    assert "failed in " in done.stdout.splitlines()[-1]
    assert "MODEL_REJECTED" in done.stdout.splitlines()[-1]
    assert quiet.stdout == ""
    assert "MODEL_REJECTED" in quiet.stderr


def test_a_service_that_is_not_there_exits_with_69_and_says_what_to_do(service: CommandLine) -> None:
    done = service("run", "--server", "127.0.0.1:1", "hello")
    assert done.returncode == 69
    assert "127.0.0.1:1 cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_missing_key_exits_with_78_and_names_the_variable(service: CommandLine) -> None:
    done = service("run", "--model", "anthropic/claude-sonnet-4.5", "hello")
    assert done.returncode == 78
    assert "ANTHROPIC_API_KEY" in done.stderr


def test_a_wrong_field_and_a_wrong_option_exit_with_2(service: CommandLine) -> None:
    assert service("run", "--id", "not an id", "hello").returncode == 2
    assert service("run", "--json", "--quiet", "hello").returncode == 2
    assert service("run", "--root", "/tmp", "hello").returncode == 2
    assert service("run", "--label", "nothing", "hello").returncode == 2
    assert service("run", "--server", "nowhere", "hello").returncode == 2


def test_an_id_that_belongs_to_another_request_is_refused(service: CommandLine) -> None:
    assert service("run", "--id", "taken", "true").returncode == 0
    done = service("run", "--id", "taken", "false")
    assert done.returncode == service("run", "--detach", "--id", "taken", "false").returncode == 1
    assert f"`runner-service events taken --server {service.environ['RUNNER_SERVICE_ADDRESS']}`" in done.stderr
    assert done.stderr.endswith("for a new one choose another --id.\n")
    assert "agent" not in done.stderr


def test_a_provider_that_there_is_not_is_no_model_of_scripted(service: CommandLine) -> None:
    done = service("run", "--model", "foo/bar", "hello")
    assert done.returncode == 2
    assert "foo/bar is no model of scripted, and foo no provider: openai, anthropic, ollama, scripted" in done.stderr


def test_a_full_queue_is_waited_for_and_said_so(tmp_path: Path) -> None:
    variables = {"LISTEN_ADDRESS": "127.0.0.1:0", "MAX_CONCURRENT_EXECUTIONS": "1", "MAX_QUEUED_EXECUTIONS": "0"}
    shell = CommandLine(tmp_path, local_environ(tmp_path, OBEDIENT) | variables)
    with running(shell) as address:
        shell("run", "--server", address, "--detach", "sleep 60")
        with shell.start("run", "--server", address, "echo second") as second:
            assert second.stderr is not None
            assert "the queue of the service is full; trying again" in second.stderr.readline()
            second.send_signal(signal.SIGINT)
            assert second.wait(60) == 130
            assert second.stderr.readlines()[-1] == "runner-service: given up before the service took it\n"


def test_running_the_same_again_shows_the_same_again(service: CommandLine) -> None:
    first = service("run", "--id", "again", "echo $$")
    assert service("run", "--id", "again", "echo $$").stdout == first.stdout


def test_detach_prints_the_id_and_leaves_it_running(service: CommandLine) -> None:
    go = service.directory / "go-detached"
    done = service("run", "--detach", f"until [ -e {go} ]; do sleep 0.05; done; echo went")
    (execution_id,) = done.stdout.split()
    assert service.state(execution_id) == "STATE_RUNNING"
    go.touch()
    assert "[1] | went" in service("events", execution_id, "--follow").stdout


def test_a_reader_that_goes_away_ends_the_command_quietly(service: CommandLine) -> None:
    with service.start("run", "--id", "unread", "while :; do echo more; sleep 0.05; done") as run:
        assert run.stdout is not None
        run.stdout.readline()
        run.stdout.close()
        run.wait()
        assert run.stderr is not None
        assert run.stderr.read() == ""
    assert run.returncode == 141
    eventually(lambda: service.state("unread") == "STATE_CANCELLED")


def test_a_wrong_token_exits_with_77_and_the_right_one_lets_in(tmp_path: Path) -> None:
    shell = CommandLine(tmp_path, local_environ(tmp_path, OBEDIENT) | {"LISTEN_ADDRESS": "127.0.0.1:0"})
    token = tmp_path / "token"
    token.write_text("open-sesame-1234\n")
    with running(shell, AUTH_TOKEN_FILE=str(token)) as address:
        refused = shell("ps", "--server", address)
        by_option = shell("ps", "--server", address, "--token-file", str(token))
        by_variable = shell("ps", "--server", address, AUTH_TOKEN="open-sesame-1234")
    assert refused.returncode == 77
    assert "--token-file" in refused.stderr
    assert by_option.returncode == by_variable.returncode == 0


def test_tls_is_spoken_with_the_authority_of_a_file_or_those_of_the_machine(tmp_path: Path) -> None:
    authority = trustme.CA()
    certificate = authority.issue_cert("localhost")
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    certificate.private_key_pem.write_to_path(str(tmp_path / "key.pem"))
    certificate.cert_chain_pems[0].write_to_path(str(tmp_path / "cert.pem"))
    files = {"TLS_CERT_FILE": str(tmp_path / "cert.pem"), "TLS_KEY_FILE": str(tmp_path / "key.pem")}
    shell = CommandLine(tmp_path, local_environ(tmp_path, OBEDIENT) | {"LISTEN_ADDRESS": "localhost:0"})
    with running(shell, **files) as address:
        assert shell("run", "--server", address, "--ca-file", "ca.pem", "echo hello").returncode == 0
        assert shell("ps", "--server", address, "--tls", SSL_CERT_FILE=str(tmp_path / "ca.pem")).returncode == 0
        distrusted = shell("ps", "--server", address, "--tls")
        without = shell("ps", "--server", address)
    assert distrusted.returncode == without.returncode == 69
    assert "--ca-file" in distrusted.stderr
    assert without.stderr == (
        f"runner-service: the service at {address} speaks TLS\nUse --tls, or --ca-file with its authority.\n"
    )


def test_tls_with_a_service_that_speaks_none_is_an_error_that_says_so(service: CommandLine) -> None:
    done = service("ps", "--tls")
    assert done.returncode == 69
    assert done.stderr.endswith("speaks no TLS\nLeave --tls and --ca-file out.\n")
    assert len(done.stderr.splitlines()) == 2


def test_a_command_that_floods_is_shown_whole_when_piped(service: CommandLine) -> None:
    done = service("run", "seq 1 20000")
    assert [line for line in done.stdout.splitlines() if line.startswith("[1] | ")] == [
        f"[1] | {number}" for number in range(1, 20001)
    ]


def test_messages_of_the_service_name_options_rather_than_fields(service: CommandLine) -> None:
    done = service("run", "--id", "not an id", "hello")
    assert done.returncode == 2
    assert "--id" in done.stderr
    assert "execution_id" not in done.stderr
