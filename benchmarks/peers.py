"""The peers that the service is compared with as a whole, each in an environment of its own."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx2

from benchmarks.executor import python_of_peer
from benchmarks.processes import resident_bytes, stop

T = TypeVar("T")

_TOKEN = "measured"
_PATIENCE = 120.0


def or_left_out(name: str, measure: Callable[[], T], rounds: int) -> list[T]:
    """What `measure` returns each time; nothing, with a word on stderr, when the peer cannot be had."""
    try:
        return [measure() for _ in range(rounds)]
    except (OSError, RuntimeError, subprocess.SubprocessError) as error:
        print(f"{name} is left out: {error}", file=sys.stderr)
        return []


def deepagents_import() -> tuple[float, float]:
    """Seconds until the library that agents run on is imported, and resident bytes then."""
    program = "import deepagents, os; print(open(f'/proc/{os.getpid()}/statm').read(), flush=True); input()"
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert process.stdout
        pages = int(process.stdout.readline().split()[1])
        return time.monotonic() - began, pages * os.sysconf("SC_PAGE_SIZE")
    finally:
        stop(process)


def swe_rex_start() -> tuple[float, float]:
    """Seconds until swe-rex's server answers, and resident bytes then."""
    with _swe_rex() as (process, _, seconds):
        return seconds, resident_bytes(process.pid)


def openhands_start() -> tuple[float, float]:
    """Seconds until openhands-agent-server answers, and resident bytes then."""
    python = python_of_peer("openhands-agent-server")
    port = _free_port()
    program = ["-m", "openhands.agent_server", "--host", "127.0.0.1", "--port", str(port)]
    with _server([python, *program], f"http://127.0.0.1:{port}/alive") as (process, seconds):
        return seconds, resident_bytes(process.pid)


def swe_rex_rate(clients: int, commands: int) -> float:
    """Commands per second that swe-rex's server runs for so many clients."""
    with _swe_rex() as (_, url, _seconds):
        return asyncio.run(_rate(url, clients, commands))


async def _rate(url: str, clients: int, commands: int) -> float:
    async with httpx2.AsyncClient(base_url=url, headers={"X-API-Key": _TOKEN}, timeout=_PATIENCE) as http:

        async def client(count: int) -> None:
            for _ in range(count):
                answer = await http.post("/execute", json={"command": ["true"]})
                if answer.json()["exit_code"] != 0:
                    raise RuntimeError("a command failed")

        await client(20)
        began = time.monotonic()
        await asyncio.gather(*(client(commands // clients) for _ in range(clients)))
        return commands // clients * clients / (time.monotonic() - began)


@contextmanager
def _swe_rex() -> Iterator[tuple["subprocess.Popen[bytes]", str, float]]:
    python = python_of_peer("swe-rex")
    port = _free_port()
    url = f"http://127.0.0.1:{port}"
    command = [str(Path(python).with_name("swerex-remote")), "--port", str(port), "--auth-token", _TOKEN]
    with _server(command, f"{url}/is_alive") as (process, seconds):
        yield process, url, seconds


@contextmanager
def _server(command: list[str], alive: str) -> Iterator[tuple["subprocess.Popen[bytes]", float]]:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory:
        began = time.monotonic()
        process = subprocess.Popen(
            command, cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            _wait_until_alive(process, alive)
            yield process, time.monotonic() - began
        finally:
            stop(process)


def _wait_until_alive(process: "subprocess.Popen[bytes]", url: str) -> None:
    deadline = time.monotonic() + _PATIENCE
    with httpx2.Client(headers={"X-API-Key": _TOKEN}) as http:
        while process.poll() is None and time.monotonic() < deadline:
            try:
                http.get(url)
            except httpx2.TransportError:
                time.sleep(0.01)
            else:
                return
    raise RuntimeError(f"no answer at {url}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


STARTS: dict[str, Callable[[], tuple[float, float]]] = {
    "import deepagents": deepagents_import,
    "swe-rex server": swe_rex_start,
    "openhands-agent-server": openhands_start,
}
