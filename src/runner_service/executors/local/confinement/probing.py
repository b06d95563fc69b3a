"""The service's own proof that a wall holds: a program inside tries what must fail, before anything is run there."""

import asyncio
import json
import os
import socket
import tempfile
from collections.abc import Mapping
from pathlib import Path

from runner_service.executors.local.commands import Commands, SupervisorSource
from runner_service.executors.local.confinement import probe
from runner_service.executors.local.confinement.cell import INTERPRETER
from runner_service.executors.local.confinement.mounts import PrivateDirectories
from runner_service.executors.protocol import ConfinementError, Stream

_TIMEOUT_SECONDS = 20.0
_PROGRAM = os.path.realpath(probe.__file__)

PROBE_FILE = "confinement-probe"


def outside_of_tmp() -> str:
    """Returns a directory that the service can write and a cell shows: /tmp it would not."""
    choices = ("/var/tmp", str(Path.cwd()), str(Path.home()))  # noqa: S108  # a directory with a random name in it
    return next((each for each in choices if os.access(each, os.W_OK | os.X_OK)), tempfile.gettempdir())


def prepare(directory: Path, state_dir: Path) -> PrivateDirectories:
    """Makes the root, the private directories and a secret. Blocks."""
    directory = directory.resolve()
    for name in ("root", "tmp", "cache"):
        (directory / name).mkdir()
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    with open(
        os.open(state_dir / PROBE_FILE, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb"
    ) as file:
        file.write(b"secret")
    return PrivateDirectories(str(directory / "tmp"), str(directory / "cache"))


def require_held(found: Mapping[str, object]) -> None:
    """Compares what was found with what has to be. Raises ConfinementError."""
    if wrong := sorted(name for name, expected in probe.EXPECTED.items() if found.get(name) is not expected):
        raise ConfinementError(f"it does not hold: {', '.join(wrong)}")


async def tried_everything(cell: SupervisorSource, root: str, outside: str, secret: str) -> Mapping[str, object]:
    """Runs the probe inside, and returns what it found by name. Raises ConfinementError."""
    output = _Output()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        commands = Commands(cell, shell="", root=root, environment={}, notify=lambda _code, _text: None)
        arguments = [root, outside, secret, str(listener.getsockname()[1]), str(os.getpid())]
        namespace = await asyncio.to_thread(os.readlink, "/proc/self/ns/pid")
        argv = [INTERPRETER, "-I", "-S", _PROGRAM, *arguments, namespace]
        try:
            result = await commands.run_program(argv, cwd=root, timeout=_TIMEOUT_SECONDS, sink=output)
        finally:
            await commands.close()
    if result.exit_code:
        raise ConfinementError(f"the probe in the cell failed: {result.start_error or output.text[-500:]}")
    found: Mapping[str, object] = json.loads(output.text)
    return found


class _Output:
    def __init__(self) -> None:
        self.text = ""

    async def write(self, stream: Stream, data: bytes) -> None:
        del stream
        self.text += data.decode("utf-8", "replace")
