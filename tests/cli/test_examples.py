"""The examples do what they say."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.cli.command_line import OBEDIENT, TIMEOUT_SECONDS, CommandLine, local_environ, running

EXAMPLES = Path(__file__).parents[2] / "examples"
BINARIES = Path(sys.executable).parent


def test_the_python_example_shows_what_the_agent_says_and_runs(service: CommandLine) -> None:
    command = [sys.executable, str(EXAMPLES / "python_client.py"), service.environ["RUNNER_SERVICE_ADDRESS"], "echo hi"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT_SECONDS)
    assert "I run it.\n[execute]\nhi\nIt said: hi" in done.stdout
    assert "STATE_SUCCEEDED" in done.stdout


def test_the_python_example_goes_on_after_the_service_was_killed(tmp_path: Path) -> None:
    address = f"unix:/tmp/runner-service-example-{os.getpid()}.sock"
    shell = CommandLine(tmp_path, local_environ(tmp_path, OBEDIENT) | {"LISTEN_ADDRESS": address})
    service = running(shell)
    command = [sys.executable, "-u", str(EXAMPLES / "python_client.py"), address, "echo begun; sleep 60"]
    with service, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        while "begun" not in client.stdout.readline():
            pass
        service.kill()
        with running(shell):
            out, err = client.communicate(timeout=TIMEOUT_SECONDS)
    Path(address.removeprefix("unix:")).unlink(missing_ok=True)
    assert "attaching again" in err
    assert "STATE_" in out
    assert "begun" not in out


@pytest.mark.skipif(not (BINARIES / "grpcurl").exists(), reason="grpcurl is not installed")
@pytest.mark.parametrize("token", ["", "open-sesame-1234"])
def test_the_grpcurl_example_runs_an_agent_and_looks_at_it(tmp_path: Path, token: str) -> None:
    variables = {"LISTEN_ADDRESS": "127.0.0.1:0", "AUTH_TOKEN": token}
    shell = CommandLine(tmp_path, local_environ(tmp_path, OBEDIENT) | variables)
    with running(shell) as address:
        done = subprocess.run(
            [EXAMPLES / "grpcurl.sh", address],
            env={"PATH": f"{BINARIES}:{os.environ['PATH']}", "HOME": str(tmp_path), "AUTH_TOKEN": token},
            check=True,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_SECONDS,
        )
    assert "runner_service.v1.AgentRunnerService.ExecuteAgent" in done.stdout
    assert '"state": "STATE_SUCCEEDED"' in done.stdout
    assert '"sequence": "3"' in done.stdout.partition("from the third event on")[2].partition("where it stands")[0]


@pytest.mark.parametrize(("answer", "told"), [("y", "hi"), ("n", "the user refused this: not now")])
def test_the_example_of_approvals_asks_before_a_command_runs(service: CommandLine, answer: str, told: str) -> None:
    command = [sys.executable, str(EXAMPLES / "approvals.py"), service.environ["RUNNER_SERVICE_ADDRESS"], "echo hi"]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, input=f"{answer}\n", timeout=TIMEOUT_SECONDS
    )
    assert "run `echo hi`? [y/n]" in done.stdout
    assert told in done.stdout
    assert "STATE_SUCCEEDED" in done.stdout


def test_the_example_of_changes_shows_and_takes_back_what_an_execution_changed(service: CommandLine) -> None:
    address = service.environ["RUNNER_SERVICE_ADDRESS"]
    service("run", "--id", "e", "echo new > made-by-the-example")
    command = [sys.executable, str(EXAMPLES / "changes.py"), address, "e"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, input="y\n", timeout=TIMEOUT_SECONDS)
    assert "ADDED made-by-the-example +1 -0" in done.stdout
    assert "+new\n" in done.stdout
    assert done.stdout.endswith("1 files put back\n")
