"""Services and commands that fork servers start, in a tenth of the time that a new interpreter takes."""

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from functools import cache
from pathlib import Path
from typing import Literal

import pytest

_ROOT = Path(__file__).parents[1]
_MAX_ANSWER_BYTES = 1024


class ForkedProcess:
    """A process of the service, with the methods of `asyncio.subprocess.Process` that tests use."""

    stderr: asyncio.StreamReader | None = None

    def __init__(self, pid: int, exit_code: "Future[int]") -> None:
        self.pid = pid
        self._exit_code = exit_code

    @property
    def returncode(self) -> int | None:
        """Its exit code; None while it runs."""
        return self._exit_code.result() if self._exit_code.done() else None

    def send_signal(self, number: int) -> None:
        """Sends it a signal, unless it has ended."""
        if not self._exit_code.done():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        """Asks it to end."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kills it."""
        self.send_signal(signal.SIGKILL)

    async def wait(self) -> int:
        """Waits for its end, and returns its exit code."""
        return await asyncio.shield(asyncio.wrap_future(self._exit_code))

    def join(self, timeout: float | None) -> int:
        """Blocks until it ends, and returns its exit code. Raises TimeoutError after `timeout` seconds."""
        return self._exit_code.result(timeout)


Preloaded = Literal["service", "commands"]
"""What a fork server has imported: all that a service needs, or only what other commands do."""


class ForkServer:
    """Starts processes. It is itself started by the first, and again if a test has killed it; close it at the end."""

    def __init__(self, preloaded: Preloaded) -> None:
        self._preloaded = preloaded
        self._lock = threading.Lock()
        self._ids = itertools.count()
        self._server: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._pids: dict[int, Future[int]] = {}
        self._exit_codes: dict[int, Future[int]] = {}

    async def fork(
        self, arguments: Sequence[str], environ: Mapping[str, str], descriptor: int, *, stderr: int = 2
    ) -> ForkedProcess:
        """Starts a service, whose last argument is the number that `descriptor` has there."""
        null = os.open(os.devnull, os.O_RDONLY)
        pid, exit_code = self._order(arguments, environ, Path.cwd(), [null, 1, stderr, descriptor])
        os.close(null)
        return ForkedProcess(await asyncio.wrap_future(pid), exit_code)

    def start(
        self, arguments: Sequence[str], environ: Mapping[str, str], directory: Path, descriptors: Sequence[int]
    ) -> ForkedProcess:
        """Starts a command with its stdin, stdout and stderr, and maybe a descriptor that its last argument names."""
        pid, exit_code = self._order(arguments, environ, directory, descriptors)
        return ForkedProcess(pid.result(), exit_code)

    def _order(
        self, arguments: Sequence[str], environ: Mapping[str, str], directory: Path, descriptors: Sequence[int]
    ) -> "tuple[Future[int], Future[int]]":
        pid: Future[int] = Future()
        exit_code: Future[int] = Future()
        with self._lock:
            if self._control is None or (self._server and self._server.poll() is not None):
                self._control = self._start()
            number = next(self._ids)
            self._pids[number], self._exit_codes[number] = pid, exit_code
            order = {
                "id": number,
                "environ": dict(environ),
                "arguments": list(arguments),
                "directory": str(directory),
            }
            socket.send_fds(self._control, [json.dumps(order).encode()], list(descriptors))
        return pid, exit_code

    def _start(self) -> socket.socket:
        if self._control:
            self._control.close()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self._server = subprocess.Popen(
                [sys.executable, "-m", "tests.fork_server", self._preloaded, str(theirs.fileno())],
                cwd=_ROOT,
                env={"PATH": os.environ["PATH"]},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        threading.Thread(target=self._read, args=(ours,), daemon=True).start()
        return ours

    def _read(self, control: socket.socket) -> None:
        with contextlib.suppress(ConnectionError):  # it was killed before it had read all orders
            while data := control.recv(_MAX_ANSWER_BYTES):
                answer = json.loads(data)
                if "pid" in answer:
                    self._pids.pop(answer["id"]).set_result(answer["pid"])
                else:
                    self._exit_codes.pop(answer["id"]).set_result(answer["exit_code"])
        for waiting in (self._pids, self._exit_codes):
            while waiting:
                waiting.popitem()[1].set_exception(RuntimeError("the fork server has ended"))

    def close(self) -> None:
        """Ends the fork server; services that still run go on."""
        if self._server and self._control:
            self._control.shutdown(socket.SHUT_RDWR)
            self._server.wait()
            self._control.close()


@cache
def shared_fork_server(preloaded: Preloaded) -> ForkServer:
    """One for all tests of a worker."""
    return ForkServer(preloaded)


@pytest.fixture(scope="session", autouse=True)
def fork_server() -> Iterator[ForkServer]:
    """The one that starts services. In the end those of commands are closed too."""
    yield shared_fork_server("service")
    for preloaded in ("service", "commands"):
        shared_fork_server(preloaded).close()
