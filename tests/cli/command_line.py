"""The command line, with a directory and an environment of its own.

Commands are forked from a process that has imported them, unless a test is about the program itself.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.cli.forked_command import ForkedCommand
from tests.forking import ForkedProcess, shared_fork_server

TIMEOUT_SECONDS = 60
PROGRAM = [sys.executable, "-m", "runner_service"]

OBEDIENT = {
    "turns": [
        {"text": "I run it.", "tool_calls": [{"name": "execute", "args": {"command": "{{message}}"}}]},
        {"text": "It said: {{last_tool_result}}"},
    ]
}
"""A script whose model runs whatever it is asked as a command, and then repeats what the command said."""


class CommandLine:
    """Runs commands in a directory with an environment of their own."""

    def __init__(self, directory: Path, environ: Mapping[str, str]) -> None:
        self.directory = directory
        self.environ = {"PATH": os.environ["PATH"], "HOME": str(directory), **environ}

    @property
    def state_dir(self) -> Path:
        return Path(self.environ["STATE_DIR"])

    def __call__(self, *arguments: str, stdin: str | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        with self.start(*arguments, has_input=True, **environ) as process:
            out, err = process.communicate(stdin, timeout=TIMEOUT_SECONDS)
        assert process.returncode is not None
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)

    def start(
        self, *arguments: str, has_input: bool = False, **environ: str
    ) -> "ForkedCommand | subprocess.Popen[str]":
        """Starts a command. What Python itself reads from the environment takes a new interpreter."""
        variables = self.environ | environ
        if not any(name.startswith("PYTHON") for name in variables):
            return ForkedCommand(arguments, variables, self.directory, has_input=has_input)
        return subprocess.Popen(
            [*PROGRAM, *arguments],
            cwd=self.directory,
            env=variables,
            stdin=subprocess.PIPE if has_input else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def events(self, execution_id: str) -> list[dict[str, Any]]:
        """Returns the events of an execution."""
        lines = self("events", execution_id, "--json").stdout.splitlines()
        return [json.loads(line) for line in lines]

    def state(self, execution_id: str) -> str:
        """Returns where an execution stands."""
        for line in self("ps", "--all", "--json").stdout.splitlines():
            execution = json.loads(line)
            if execution["execution_id"] == execution_id:
                return str(execution["state"])
        return ""

    def service(self) -> dict[str, Any]:
        """Returns what the service that holds STATE_DIR says of itself."""
        about: dict[str, Any] = json.loads((self.state_dir / "service.json").read_text())
        return about

    def stop_service(self) -> None:
        """Stops the service that holds STATE_DIR, unless it was idle and has ended by itself."""
        try:
            pid = self.service()["pid"]
            os.kill(pid, signal.SIGTERM)
        except (FileNotFoundError, ProcessLookupError):
            return
        eventually(lambda: not is_alive(pid))


def local_environ(directory: Path, script: Mapping[str, Any]) -> dict[str, str]:
    """Returns the environment of a local service below `directory` that plays `script`."""
    (directory / "script.yaml").write_text(yaml.safe_dump(script))
    return {
        "STATE_DIR": str(directory / "state"),
        "STIGMER_LLM_PROVIDER": "scripted",
        "STIGMER_LLM_SCRIPT": str(directory / "script.yaml"),
    }


class running:  # noqa: N801  # reads as what it does
    """Keeps `serve` running, on the address that LISTEN_ADDRESS says, which is what the context gives."""

    def __init__(self, shell: CommandLine, *arguments: str, **environ: str) -> None:
        self.directory = shell.directory
        self.arguments = ["serve", *arguments, "--ready-fd"]
        self.environ = shell.environ | {"MODE": "local"} | environ

    def __enter__(self) -> str:
        ready, announce = os.pipe()
        log = self.directory / "serve.log"
        with log.open("w") as stderr, Path(os.devnull).open() as null:
            self.process = self.start([null.fileno(), 1, stderr.fileno(), announce])
        os.close(announce)
        with os.fdopen(ready) as stream:
            line = stream.readline()
        assert line, f"the service did not start: {log.read_text()}"
        return str(json.loads(line)["address"])

    def start(self, descriptors: Sequence[int]) -> ForkedProcess | subprocess.Popen[bytes]:
        """Starts it with its stdin, stdout, stderr, and the descriptor that its last argument names."""
        return shared_fork_server("service").start(self.arguments, self.environ, self.directory, descriptors)

    def __exit__(self, *_: object) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.send_signal(signal.SIGINT)  # two of the same may arrive as one
        self._wait()

    def kill(self) -> None:
        """Kills it, as the kernel would."""
        self.process.kill()
        self._wait()

    def _wait(self) -> None:
        if isinstance(self.process, ForkedProcess):
            self.process.join(TIMEOUT_SECONDS)
        else:
            self.process.wait(TIMEOUT_SECONDS)


class running_program(running):  # noqa: N801  # as above
    """The same with a program of its own, for a test of what the kernel shows of it."""

    def start(self, descriptors: Sequence[int]) -> ForkedProcess | subprocess.Popen[bytes]:
        """Starts it with its stdin, stdout, stderr, and the descriptor that its last argument names."""
        stdin, stdout, stderr, announce = descriptors
        return subprocess.Popen(
            [*PROGRAM, *self.arguments, str(announce)],
            cwd=self.directory,
            env=self.environ,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            pass_fds=[announce],
        )


def eventually(condition: Callable[[], object]) -> None:
    """Waits until `condition` holds."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Tells whether a process runs; one that only waits for its parent to look does not.

    Its files and sockets are open until its last thread has ended, which may be later than the first.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    process = Path(f"/proc/{pid}")
    try:
        state, threads = (
            (process / "stat").read_text().rpartition(")")[2].split()[0],
            list((process / "task").iterdir()),
        )
    except OSError:  # there is no /proc, or it has just gone
        return not process.parent.joinpath("self").exists()
    return state != "Z" or len(threads) > 1


def shown_to_others(pid: int) -> str:
    """Returns the arguments of a process, and its environment if its user may read that."""
    process = Path("/proc") / str(pid)
    if not process.exists():
        pytest.skip("there is no /proc")
    try:
        environ = (process / "environ").read_text()
    except PermissionError:
        environ = ""
    return (process / "cmdline").read_text() + environ
