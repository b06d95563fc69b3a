"""One real service that most tests share, and commands that have to find their own."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cli.command_line import OBEDIENT, CommandLine, eventually, is_alive, local_environ, running


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CommandLine]:
    """The shared service; commands find it by its address."""
    directory = tmp_path_factory.mktemp("shared")
    variables = {"LISTEN_ADDRESS": "127.0.0.1:0", "DISCONNECT_GRACE": "0.2"}
    shell = CommandLine(directory, local_environ(directory, OBEDIENT) | variables)
    with running(shell) as address:
        shell.environ["RUNNER_SERVICE_ADDRESS"] = address
        yield shell


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[CommandLine]:
    """Commands that have to find or start a service themselves. It is stopped at the end."""
    shell = CommandLine(tmp_path, local_environ(tmp_path, OBEDIENT))
    yield shell
    try:
        pid = shell.service()["pid"]
        os.kill(pid, signal.SIGTERM)
        os.kill(pid, signal.SIGINT)  # two of the same may arrive as one
    except (OSError, ValueError):
        return
    eventually(lambda: not is_alive(pid))
