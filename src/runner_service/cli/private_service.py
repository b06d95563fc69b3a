"""Finds or starts the service that holds STATE_DIR.

A private service is started in its own process session, so that Ctrl-C does not reach it, and outlives the command that
started it while executions run in it.
"""

import asyncio
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import BinaryIO

from runner_service.cli.environment import settings_from
from runner_service.cli.errors import CommandError, ExitCode
from runner_service.cli.secret_variables import pop_secrets, write_secrets
from runner_service.state_dir import IN_USE, HoldingService, find_service

LOG_FILE = "service.log"
SOCKET_FILE = "service.sock"

OLLAMA_MODEL = "qwen3:8b"
"""The default of the command line: it calls tools, where that of the Stigmer daemon writes its calls as text."""

_IDLE_TIMEOUT_SECONDS = 2
_START_TIMEOUT_SECONDS = 30.0
_RELEASE_TIMEOUT_SECONDS = 15.0  # for a service that is stopping; its executions have 4
_POLL_INTERVAL_SECONDS = 0.2
_MAX_SOCKET_PATH_BYTES = 100  # bytes; systems allow 103 to 107
_MAX_LOG_BYTES = 1 << 20

# Access control of a service that others can reach. A private service listens where only its owner can connect.
_ACCESS_VARIABLES = ("AUTH_TOKEN", "AUTH_TOKEN_FILE", "TLS_CERT_FILE", "TLS_KEY_FILE", "TLS_CLIENT_CA_FILE")


Report = Callable[[str], None]


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
        if self._environ.get("STIGMER_LLM_PROVIDER", "ollama") == "ollama":
            self._environ.setdefault("STIGMER_LLM_MODEL", OLLAMA_MODEL)
        self._environ["LISTEN_ADDRESS"] = "127.0.0.1:0"
        self.settings = settings_from(self._environ)
        self._environ["LISTEN_ADDRESS"] = _listen_address(self.settings.state_dir)

    def add_keys(self, keys: Mapping[str, str]) -> None:
        """Adds secret variables for the service, if it will be started."""
        self._environ |= keys

    def is_running(self) -> bool:
        """Tells whether a service holds STATE_DIR and can be called."""
        found = find_service(self.settings.state_dir)
        return found is not None and not found.is_stopping

    async def address(self, report: Report) -> str:
        """Returns where the service listens; starts it when there is none. Takes up to some seconds.

        A service that is stopping is waited for, however long it takes to drain, and `report` is told. One that holds
        STATE_DIR without SERVICE_FILE is starting, or was just killed, and has `_RELEASE_TIMEOUT_SECONDS`.

        Raises:
            CommandError: it cannot be started, or STATE_DIR is held by a service for another directory.
        """
        give_up_at = time.monotonic() + _RELEASE_TIMEOUT_SECONDS
        reported_pid = 0
        while True:
            found = await asyncio.to_thread(find_service, self.settings.state_dir)
            try:
                if found is None:
                    return await self._start()
                if not found.is_stopping:
                    self._require_compatible(found)
                    return found.address
            except _StateDirHeldError:
                if time.monotonic() >= give_up_at:
                    raise
            if found and found.is_stopping and found.pid != reported_pid:
                reported_pid = found.pid
                report(f"waiting for the service with pid {found.pid}, which is stopping")
            await asyncio.sleep(_POLL_INTERVAL_SECONDS)

    def _require_compatible(self, found: HoldingService) -> None:
        """Raises CommandError if it has another root or mode; _StateDirHeldError if it will stop when idle."""
        if self._anywhere or self._is_compatible(found):
            return
        raise (_StateDirHeldError if self._is_private(found) else CommandError)(
            f"the service with pid {found.pid} holds STATE_DIR {self.settings.state_dir}, and works in "
            f"{found.sandbox_root} (MODE={found.mode}), not in {self._root()} (MODE={self.settings.mode})\n"
            f"Wait until it has ended, stop it with `kill {found.pid}`, or set STATE_DIR to another directory.",
            ExitCode.UNAVAILABLE,
        )

    def _is_compatible(self, found: HoldingService) -> bool:
        same_place = found.mode == "cloud" or found.sandbox_root == str(self._root())
        return found.mode == self.settings.mode and same_place

    def _is_private(self, found: HoldingService) -> bool:
        """Tells whether a command has started it, by where it listens; it then stops when idle."""
        return found.address.startswith(self._environ["LISTEN_ADDRESS"].removesuffix(":0"))

    def _root(self) -> Path:
        return Path(self.settings.sandbox_root_dir).resolve()

    async def _start(self) -> str:
        """Starts the service and returns where it listens.

        Raises:
            CommandError: it cannot start; _StateDirHeldError: STATE_DIR is held.
        """
        log = _open_log(self.settings.state_dir)
        log_size = log.stat().st_size
        process, ready = await asyncio.to_thread(self._spawn, log)
        address = await _announced_address(process, ready)
        if address is not None:
            return address
        exit_code = await asyncio.to_thread(process.wait)
        written = log.read_bytes()[log_size:].decode(errors="replace").strip()
        reason = written.removeprefix("runner-service: ") or f"it ended with exit code {exit_code}; its log is {log}"
        text = f"the service cannot start: {reason}"
        if exit_code == ExitCode.LOG_UNAVAILABLE:
            raise (_StateDirHeldError if IN_USE in reason else CommandError)(text, ExitCode.LOG_UNAVAILABLE)
        raise CommandError(text, ExitCode.CONFIG if exit_code == ExitCode.CONFIG else ExitCode.UNAVAILABLE)

    def _spawn(self, log: Path) -> tuple[subprocess.Popen[bytes], int]:
        """Starts it; returns the process, and the descriptor that it will write its address to."""
        environ = dict(self._environ)
        keys = write_secrets(pop_secrets(environ))
        ready, tell = os.pipe()
        options = ["--ready-fd", tell, "--secrets-fd", keys, "--exit-when-idle", _IDLE_TIMEOUT_SECONDS]
        if self._anywhere:
            options.append("--load-agent-when-needed")
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


async def _announced_address(process: subprocess.Popen[bytes], ready: int) -> str | None:
    """Returns the address that the service announces, None if it exits without. Closes `ready`."""
    with os.fdopen(ready, "rb") as stream:
        give_up_at = time.monotonic() + _START_TIMEOUT_SECONDS
        while not await asyncio.to_thread(_has_data, stream):
            if time.monotonic() >= give_up_at:
                process.terminate()
                text = f"the service did not start within {_START_TIMEOUT_SECONDS:g} s"
                raise CommandError(text, ExitCode.UNAVAILABLE)
        line = stream.readline()
    return str(json.loads(line)["address"]) if line else None


def _has_data(stream: BinaryIO) -> bool:
    return bool(select.select([stream], [], [], _POLL_INTERVAL_SECONDS)[0])
