"""`serve`: how it starts, how it does not, and where its keys are."""

import json
import os
import signal
import socket
import subprocess

import pytest
from tests.cli.command_line import (
    PROGRAM,
    TIMEOUT_SECONDS,
    CommandLine,
    eventually,
    is_alive,
    running,
    running_program,
    shown_to_others,
)

from runner_service.cli.actions.serve import read_settings

SECRET = "sk-tell-nobody-this"


def _serve_with_keys(shell: CommandLine, content: str) -> subprocess.CompletedProcess[str]:
    return shell("serve", "--secrets-fd", "0", stdin=content, MODE="local", LISTEN_ADDRESS="127.0.0.1:0")


def test_keys_over_a_pipe_are_used_and_stand_in_no_environment_or_argument(alone: CommandLine) -> None:
    ready, announce = os.pipe()
    keys, give = os.pipe()
    os.write(give, json.dumps({"OPENAI_API_KEY": SECRET, "AUTH_TOKEN": f"{SECRET}-either"}).encode())
    os.close(give)
    process = subprocess.Popen(
        [*PROGRAM, "serve", "--ready-fd", str(announce), "--secrets-fd", str(keys)],
        env=alone.environ | {"MODE": "local", "LISTEN_ADDRESS": "127.0.0.1:0"},
        stderr=subprocess.PIPE,
        pass_fds=[announce, keys],
        text=True,
    )
    os.close(announce)
    os.close(keys)
    with process, os.fdopen(ready) as stream:
        address = json.loads(stream.readline())["address"]
        shown = shown_to_others(process.pid)
        refused = alone("ps", "--server", address)
        let_in = alone("ps", "--server", address, AUTH_TOKEN=f"{SECRET}-either")
        process.send_signal(signal.SIGTERM)
        log = process.communicate(timeout=TIMEOUT_SECONDS)[1]
    assert SECRET not in shown
    assert SECRET not in log
    assert refused.returncode == 77
    assert let_in.returncode == 0


def test_keys_that_are_no_json_object_of_texts_exit_with_78_and_are_not_repeated(alone: CommandLine) -> None:
    for content in (SECRET, f'["{SECRET}"]', f'{{"OPENAI_API_KEY": ["{SECRET}"]}}', f'{{"{SECRET}": "x"}}', ""):
        done = _serve_with_keys(alone, content)
        assert done.returncode == 78
        assert "--secrets-fd 0" in done.stderr
        assert SECRET not in done.stderr


def test_a_descriptor_for_keys_that_is_not_open_exits_with_78(alone: CommandLine) -> None:
    done = alone("serve", "--secrets-fd", "63", MODE="local")
    assert done.returncode == 78
    assert "--secrets-fd 63 cannot be read" in done.stderr


def test_commands_of_an_agent_do_not_inherit_the_keys_of_the_service(alone: CommandLine) -> None:
    with running_program(alone, LISTEN_ADDRESS="127.0.0.1:0", OPENAI_API_KEY=SECRET) as address:
        done = alone("run", "--server", address, "tr '\\0' '\\n' < /proc/$PPID/environ; env")
    assert done.returncode == 0
    assert "[1] | " in done.stdout
    assert SECRET not in done.stdout


def test_a_key_in_the_environment_is_a_setting_and_then_in_no_environment_that_a_child_could_inherit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "environ", {"MODE": "local", "HOME": "/", "OPENAI_API_KEY": SECRET})
    settings = read_settings(None)
    assert settings.openai_api_key is not None
    assert settings.openai_api_key.get_secret_value() == SECRET
    assert set(os.environ) == {"MODE", "HOME"}


def test_an_address_that_is_taken_exits_with_69(alone: CommandLine, service: CommandLine) -> None:
    done = alone("serve", MODE="local", LISTEN_ADDRESS=service.environ["RUNNER_SERVICE_ADDRESS"])
    assert done.returncode == 69
    assert "is taken" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_state_dir_that_is_taken_exits_with_75(alone: CommandLine, service: CommandLine) -> None:
    done = alone("serve", MODE="local", LISTEN_ADDRESS="127.0.0.1:0", STATE_DIR=str(service.state_dir))
    assert done.returncode == 75
    assert "in use by another runner-service" in done.stderr
    assert "Traceback" not in done.stderr


def test_certificates_that_cannot_be_used_exit_with_69(alone: CommandLine) -> None:
    (alone.directory / "no.pem").write_text("no certificate")
    files = {"TLS_CERT_FILE": str(alone.directory / "no.pem"), "TLS_KEY_FILE": str(alone.directory / "no.pem")}
    done = alone("serve", MODE="local", LISTEN_ADDRESS="127.0.0.1:0", **files)
    assert done.returncode == 69
    assert "TLS_CERT_FILE" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_environment_exits_with_78_and_names_each_variable(alone: CommandLine) -> None:
    done = alone("serve", MODE="local", LISTEN_ADDRESS="nowhere", LOG_LEVEL="loud")
    assert done.returncode == 78
    assert "LISTEN_ADDRESS: should be host:port" in done.stderr
    assert "LOG_LEVEL" in done.stderr


def test_an_idle_service_stops_by_itself_when_asked_to(alone: CommandLine) -> None:
    with alone.start("serve", "--exit-when-idle", "0.2", MODE="local", LISTEN_ADDRESS="127.0.0.1:0") as serving:
        assert serving.wait(TIMEOUT_SECONDS) == 0


@pytest.mark.parametrize("confinement", ["none", "workspace"])
def test_the_end_of_the_drain_is_the_end_of_every_grace_period(alone: CommandLine, confinement: str) -> None:
    started = alone.directory / "workspace" / "started"
    alone.environ["SANDBOX_CONFINEMENT"] = confinement
    patient = {"DRAIN_TIMEOUT": "0.1", "KILL_GRACE": "1000"}
    with running(alone, LISTEN_ADDRESS="127.0.0.1:0", **patient) as address:
        alone.environ["RUNNER_SERVICE_ADDRESS"] = address
        alone("run", "--detach", "--id", "stubborn", "trap '' TERM; touch started; while :; do sleep 1; done")
        eventually(lambda: started.exists() or alone.state("stubborn") == "STATE_FAILED")
        if not started.exists():
            pytest.skip("this machine cannot confine commands")
        pid = alone.service()["pid"]
        os.kill(pid, signal.SIGTERM)
        eventually(lambda: not is_alive(pid))


def test_a_service_stops_while_its_agent_loop_is_still_loading(alone: CommandLine) -> None:
    package = alone.directory / "slow"
    (package / "langgraph").mkdir(parents=True)
    loading = alone.directory / "loading"
    (package / "langgraph" / "__init__.py").write_text(
        f"import pathlib, time\npathlib.Path({str(loading)!r}).touch()\ntime.sleep(1000)\n"
    )
    alone.environ |= {"MODE": "local", "LISTEN_ADDRESS": "127.0.0.1:0", "PYTHONPATH": str(package)}
    with alone.start("serve") as serving:
        eventually(loading.exists)
        serving.terminate()
        assert serving.wait(TIMEOUT_SECONDS) == 0
    assert not (alone.state_dir / "service.json").exists()


def test_a_collector_that_does_not_answer_does_not_hold_up_the_stop(alone: CommandLine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as collector:  # takes connections, and never reads
        endpoint = f"http://127.0.0.1:{collector.getsockname()[1]}"
        with running(alone, LISTEN_ADDRESS="127.0.0.1:0", OTEL_EXPORTER_OTLP_ENDPOINT=endpoint) as address:
            assert alone("run", "--quiet", "echo hello", RUNNER_SERVICE_ADDRESS=address).returncode == 0
            pid = alone.service()["pid"]
            os.kill(pid, signal.SIGTERM)
            eventually(lambda: not is_alive(pid))
