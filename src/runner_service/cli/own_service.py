"""The service that holds STATE_DIR: found, or started for us.

One that is started here runs in a session of its own, so that Ctrl-C does not reach it, and outlives the command that
started it for as long as something runs in it.
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
from runner_service.cli.environment import settings_of
from runner_service.cli.exits import ExitCode, Failure
from runner_service.cli.keys import take_keys, write_keys
from runner_service.settings import SERVICE_FILE

EVENTS_FILE = "events.db"
LOG_FILE = "service.log"
SOCKET_FILE = "service.sock"

_IDLE_SECONDS = 2
_START_SECONDS = 30.0
_YIELD_SECONDS = 15.0  # for a service that is in the way; one that stops gives its executions 4
_LOOK_EVERY = 0.2
_LONGEST_SOCKET_PATH = 100  # bytes; systems allow 103 to 107
_LONGEST_LOG = 1 << 20

# What protects a service that others can reach. Ours listens where only its owner can.
_PROTECTION = ("AUTH_TOKEN", "AUTH_TOKEN_FILE", "TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CLIENT_CA_FILE")


class Found(NamedTuple):
    """A service that listens, by its own account."""

    address: str
    pid: int
    sandbox_root: str
    mode: str


class _InTheWayError(Failure):
    """Another service holds STATE_DIR, for now."""


class OwnService:
    """The service for the directory and mode of `environ`. `environ` may hold keys: they reach it over a pipe only.

    With `anywhere`, a service that works in another directory or mode will do: for those who only look.
    """

    def __init__(self, environ: Mapping[str, str], *, anywhere: bool = False) -> None:
        self._anywhere = anywhere
        self._environ = {name: value for name, value in environ.items() if name not in _PROTECTION}
        self._environ.setdefault("MODE", "local")
        self._environ["LISTEN_ADDRESS"] = "127.0.0.1:0"
        self.settings = settings_of(self._environ)
        self._environ["LISTEN_ADDRESS"] = _listen_address(self.settings.state_dir)

    def add_keys(self, keys: Mapping[str, str]) -> None:
        """Gives more secret variables to the service, should it be started."""
        self._environ |= keys

    def is_running(self) -> bool:
        """Tells whether a service holds STATE_DIR."""
        return self.running_at() is not None

    def running_at(self) -> str | None:
        """Returns where the service that holds STATE_DIR listens, None if there is none. Starts none."""
        found = _find(self.settings.state_dir)
        return found.address if found else None

    def has_log(self) -> bool:
        """Tells whether there is anything to look at: whether a service has ever held STATE_DIR."""
        return (self.settings.state_dir / EVENTS_FILE).exists()

    def address(self) -> str:
        """Returns where the service listens; starts it when there is none. Takes up to some seconds.

        One that is in the way, because it is just stopping or starting, has a moment to go or to say where it is.

        Raises:
            Failure: it cannot be started, or STATE_DIR is held by a service for another directory.
        """
        give_up = time.monotonic() + _YIELD_SECONDS
        while True:
            try:
                found = self._find_fitting()
                return found.address if found else self._start()
            except _InTheWayError:
                if time.monotonic() >= give_up:
                    raise
            time.sleep(_LOOK_EVERY)

    def _find_fitting(self) -> Found | None:
        """Returns the service that holds STATE_DIR, if any. Raises Failure; _InTheWayError if it will soon be idle."""
        found = _find(self.settings.state_dir)
        if found is None or self._anywhere or self._fits(found):
            return found
        raise (_InTheWayError if self._is_our_own(found) else Failure)(
            f"the service with pid {found.pid} holds STATE_DIR {self.settings.state_dir}, and works in "
            f"{found.sandbox_root} (MODE={found.mode}), not in {self._root()} (MODE={self.settings.mode})\n"
            f"Wait until it has ended, stop it with `kill {found.pid}`, or set STATE_DIR to another directory.",
            ExitCode.UNAVAILABLE,
        )

    def _fits(self, found: Found) -> bool:
        same_place = found.mode == "cloud" or found.sandbox_root == str(self._root())
        return found.mode == self.settings.mode and same_place

    def _is_our_own(self, found: Found) -> bool:
        """Tells whether a command has started it, by where it listens; such a one ends by itself."""
        return found.address.startswith(self._environ["LISTEN_ADDRESS"].removesuffix(":0"))

    def _root(self) -> Path:
        return Path(self.settings.sandbox_root_dir).resolve()

    def _start(self) -> str:
        """Starts the service and returns where it listens. Raises Failure; _InTheWayError if STATE_DIR is held."""
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
            raise _InTheWayError(text, ExitCode.LOG_UNAVAILABLE)
        raise Failure(text, ExitCode.CONFIG if exit_code == ExitCode.CONFIG else ExitCode.UNAVAILABLE)

    def _spawn(self, log: Path) -> tuple[subprocess.Popen[bytes], int]:
        """Starts it; returns the process, and the descriptor that it will say its address on."""
        environ = dict(self._environ)
        keys = write_keys(take_keys(environ))
        ready, tell = os.pipe()
        options = ("--ready-fd", tell, "--secrets-fd", keys, "--exit-when-idle", _IDLE_SECONDS)
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
            raise Failure(f"the service cannot start: {error.strerror}", ExitCode.UNAVAILABLE) from error
        finally:
            os.close(tell)
            os.close(keys)
        return process, ready


def _find(state_dir: Path) -> Found | None:
    """Returns the service that says it holds `state_dir`, if it can be reached."""
    try:
        said = json.loads((state_dir / SERVICE_FILE).read_bytes())
        found = Found(said["address"], said["pid"], said["sandbox_root"], said["mode"])
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
    return f"unix:{path}" if len(os.fsencode(path)) <= _LONGEST_SOCKET_PATH else "127.0.0.1:0"


def _open_log(state_dir: Path) -> Path:
    """Returns the file for what the service says, made if missing, and emptied when long."""
    log = state_dir / LOG_FILE
    try:
        state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        log.touch(mode=0o600)
        if log.stat().st_size > _LONGEST_LOG:
            os.truncate(log, 0)
    except OSError as error:
        text = f"STATE_DIR {state_dir} cannot be used: {error.strerror}; set it to a directory that can be written"
        raise Failure(text, ExitCode.CONFIG) from error
    return log


def _wait_for_address(process: subprocess.Popen[bytes], ready: int) -> str | None:
    """Returns what the service says, None when it ends without a word. Closes `ready`."""
    with os.fdopen(ready, "rb") as stream:
        if not select.select([stream], [], [], _START_SECONDS)[0]:
            process.terminate()
            raise Failure(f"the service did not start within {_START_SECONDS:g} s", ExitCode.UNAVAILABLE)
        line = stream.readline()
    return str(json.loads(line)["address"]) if line else None
