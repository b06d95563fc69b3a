"""Finds or starts the service that holds STATE_DIR.

A private service is started in its own process session, so that Ctrl-C does not reach it, and outlives the command that
started it while executions run in it.
"""

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from runner_service.addresses import UnixAddress, parse_address
from runner_service.cli.environment import settings_from
from runner_service.cli.errors import CommandError, ExitCode
from runner_service.cli.secret_variables import pop_secrets, write_secrets
from runner_service.settings import SERVICE_FILE

EVENTS_FILE = "events.db"
LOG_FILE = "service.log"
SOCKET_FILE = "service.sock"

_IDLE_TIMEOUT_SECONDS = 2
_START_TIMEOUT_SECONDS = 30.0
_RELEASE_TIMEOUT_SECONDS = 15.0  # for a service that is stopping; its executions have 4
_POLL_INTERVAL_SECONDS = 0.2
_MAX_SOCKET_PATH_BYTES = 100  # bytes; systems allow 103 to 107
_MAX_LOG_BYTES = 1 << 20

# Access control of a service that others can reach. A private service listens where only its owner can connect.
_ACCESS_VARIABLES = ("AUTH_TOKEN", "AUTH_TOKEN_FILE", "TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CLIENT_CA_FILE")


class FoundService(NamedTuple):
    """A running service, as described by its SERVICE_FILE."""

    address: str
    pid: int
    sandbox_root: str
    mode: str


class _StateDirHeldError(CommandError):
    """Another service holds STATE_DIR; it may release it soon."""


class PrivateService:
    """The service for the root directory and mode of `environ`, whose keys are passed to it over a pipe only.

    With `anywhere`, a service with another root or mode will do: for commands that only read.
    """

    def __init__(self, environ: Mapping[str, str], *, anywhere: bool = False) -> None:
        self._anywhere = anywhere
        self._environ = {name: value for name, value in environ.items() if name not in _ACCESS_VARIABLES}
        self._environ.setdefault("MODE", "local")
        self._environ["LISTEN_ADDRESS"] = "127.0.0.1:0"
        self.settings = settings_from(self._environ)
        self._environ["LISTEN_ADDRESS"] = _listen_address(self.settings.state_dir)

    def add_keys(self, keys: Mapping[str, str]) -> None:
        """Adds secret variables for the service, if it will be started."""
        self._environ |= keys

    def is_running(self) -> bool:
        """Tells whether a service holds STATE_DIR."""
        return self.running_at() is not None

    def running_at(self) -> str | None:
        """Returns where the service that holds STATE_DIR listens; None if there is none."""
        found = _find(self.settings.state_dir)
        return found.address if found else None

    def has_log(self) -> bool:
        """Tells whether there is an event log: whether a service has ever held STATE_DIR."""
        return (self.settings.state_dir / EVENTS_FILE).exists()

    def address(self) -> str:
        """Returns where the service listens; starts it when there is none. Takes up to some seconds.

        A service that is starting or stopping is waited for.

        Raises:
            CommandError: it cannot be started, or STATE_DIR is held by a service for another directory.
        """
        give_up = time.monotonic() + _RELEASE_TIMEOUT_SECONDS
        while True:
            try:
                found = self._find_compatible()
                return found.address if found else self._start()
            except _StateDirHeldError:
                if time.monotonic() >= give_up:
                    raise
            time.sleep(_POLL_INTERVAL_SECONDS)

    def _find_compatible(self) -> FoundService | None:
        """Returns the service that holds STATE_DIR, if any.

        Raises:
            CommandError: it has another root or mode; _StateDirHeldError: it will release STATE_DIR when idle.
        """
        found = _find(self.settings.state_dir)
        if found is None or self._anywhere or self._is_compatible(found):
            return found
        raise (_StateDirHeldError if self._is_private(found) else CommandError)(
            f"the service with pid {found.pid} holds STATE_DIR {self.settings.state_dir}, and works in "
            f"{found.sandbox_root} (MODE={found.mode}), not in {self._root()} (MODE={self.settings.mode})\n"
            f"Wait until it has ended, stop it with `kill {found.pid}`, or set STATE_DIR to another directory.",
            ExitCode.UNAVAILABLE,
        )

    def _is_compatible(self, found: FoundService) -> bool:
        same_place = found.mode == "cloud" or found.sandbox_root == str(self._root())
        return found.mode == self.settings.mode and same_place

    def _is_private(self, found: FoundService) -> bool:
        """Tells whether a command has started it, by where it listens; it then stops when idle."""
        return found.address.startswith(self._environ["LISTEN_ADDRESS"].removesuffix(":0"))

    def _root(self) -> Path:
        return Path(self.settings.sandbox_root_dir).resolve()

    def _start(self) -> str:
        """Starts the service and returns where it listens.

        Raises:
            CommandError: it cannot start; _StateDirHeldError: STATE_DIR is held.
        """
        log = _open_log(self.settings.state_dir)
        begin = log.stat().st_size
        process, ready = self._spawn(log)
        address = _wait_for_address(process, ready)
        if address is not None:
            return address
        exit_code = process.wait()
        said = log.read_bytes()[begin:].decode(errors="replace").strip()
        reason = said.removeprefix("runner-service: ") or f"it ended with exit code {exit_code}; its log is {log}"
        text = f"the service cannot start: {reason}"
        if exit_code == ExitCode.LOG_UNAVAILABLE:
            raise _StateDirHeldError(text, ExitCode.LOG_UNAVAILABLE)
        raise CommandError(text, ExitCode.CONFIG if exit_code == ExitCode.CONFIG else ExitCode.UNAVAILABLE)

    def _spawn(self, log: Path) -> tuple[subprocess.Popen[bytes], int]:
        """Starts it; returns the process, and the descriptor that it will write its address to."""
        environ = dict(self._environ)
        keys = write_secrets(pop_secrets(environ))
        ready, tell = os.pipe()
        options = ("--ready-fd", tell, "--secrets-fd", keys, "--exit-when-idle", _IDLE_TIMEOUT_SECONDS)
        # -P: a file in the working directory must not be taken for a module of ours.
        argv = [sys.executable, "-P", "-m", "runner_service", "serve", *map(str, options)]
        try:
            with log.open("ab") as output:
                process = subprocess.Popen(  # noqa: S603  # our own program
                    argv,
                    env=environ,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(tell, keys),
                    start_new_session=True,
                )
        except OSError as error:
            os.close(ready)
            raise CommandError(f"the service cannot start: {error.strerror}", ExitCode.UNAVAILABLE) from error
        finally:
            os.close(tell)
            os.close(keys)
        return process, ready


def _find(state_dir: Path) -> FoundService | None:
    """Returns the service that SERVICE_FILE names, if it accepts connections."""
    try:
        said = json.loads((state_dir / SERVICE_FILE).read_bytes())
        found = FoundService(said["address"], said["pid"], said["sandbox_root"], said["mode"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if _answers(found.address) else None


def _answers(address: str) -> bool:
    where = parse_address(address)
    try:
        if isinstance(where, UnixAddress):
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
                caller.settimeout(1.0)
                caller.connect(where.path)
        else:
            socket.create_connection(where, timeout=1.0).close()
    except OSError:
        return False
    return True


def _listen_address(state_dir: Path) -> str:
    path = state_dir / SOCKET_FILE
    return f"unix:{path}" if len(os.fsencode(path)) <= _MAX_SOCKET_PATH_BYTES else "127.0.0.1:0"


def _open_log(state_dir: Path) -> Path:
    """Returns the log file of the service, created if missing, truncated if long."""
    log = state_dir / LOG_FILE
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        log.touch(mode=0o600)
        if log.stat().st_size > _MAX_LOG_BYTES:
            os.truncate(log, 0)
    except OSError as error:
        text = f"STATE_DIR {state_dir} cannot be used: {error.strerror}; set it to a directory that can be written"
        raise CommandError(text, ExitCode.CONFIG) from error
    return log


def _wait_for_address(process: subprocess.Popen[bytes], ready: int) -> str | None:
    """Returns the address that the service announces, None if it exits without. Closes `ready`."""
    with os.fdopen(ready, "rb") as stream:
        if not select.select([stream], [], [], _START_TIMEOUT_SECONDS)[0]:
            process.terminate()
            raise CommandError(f"the service did not start within {_START_TIMEOUT_SECONDS:g} s", ExitCode.UNAVAILABLE)
        line = stream.readline()
    return str(json.loads(line)["address"]) if line else None
