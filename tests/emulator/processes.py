"""The processes of a sandbox: known by a variable in their environment, and by descent from one that has it.

As a script, it waits for the end of its stdin and then ends everything that carries the mark it is given.
"""

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

MARK = "DAYTONA_SANDBOX_ID"
OURS = "EMULATED_BY"
SHELL = "/usr/bin/bash"

_THREADS = ThreadPoolExecutor(256, thread_name_prefix="emulator")


async def in_thread(work: Callable[[], T]) -> T:
    """Waits for a process in a thread: loops fork to start one, which is not safe beside gRPC."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, work)


def started(*argv: str, cwd: str, env: Mapping[str, str], stderr: int) -> subprocess.Popen[bytes]:
    """Starts a process in a group of its own. Raises OSError."""
    return subprocess.Popen(
        argv,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        cwd=cwd,
        env=dict(env),
        process_group=0,
    )


def kill_group(process: subprocess.Popen[bytes]) -> None:
    """Kills a process and its group."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@cache
def guard() -> str:
    """Starts, once, a process that ends all sandboxes if this one is killed; returns its value of `OURS`."""
    ours = f"{os.getpid()}-{time.monotonic_ns()}"
    reader, _ = os.pipe()  # the other end is closed by our end, whatever it is
    script = [sys.executable, "-I", "-S", __file__, f"{OURS}={ours}"]
    os.posix_spawn(
        sys.executable, script, {}, file_actions=[(os.POSIX_SPAWN_DUP2, reader, 0)], setsid=True, setsigdef=()
    )
    os.close(reader)
    return ours


def processes_of(sandbox_id: str) -> set[int]:
    """Returns the living processes of a sandbox, and all below them."""
    return marked(f"{MARK}={sandbox_id}")


def programs_of(sandbox_id: str) -> dict[int, bytes]:
    """Returns the argument lists of those processes, apart from those that end meanwhile."""
    programs = {}
    for pid in processes_of(sandbox_id):
        with suppress(OSError):
            programs[pid] = Path(f"/proc/{pid}/cmdline").read_bytes()
    return programs


def marked(variable: str) -> set[int]:
    """Returns the living processes with a variable in their environment, and all below them."""
    mark = variable.encode()
    parents = dict(_living())
    found = {pid for pid in parents if mark in _environment(pid)}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


async def kill_all(sandbox_id: str) -> None:
    """Kills until nothing is left, all at once: none is there to see another end."""
    while pids := await asyncio.to_thread(processes_of, sandbox_id):
        for number in (signal.SIGSTOP, signal.SIGKILL):
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
        await asyncio.sleep(0.01)


def _living() -> Iterator[tuple[int, int]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_bytes().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] not in {b"Z", b"X"}:
                yield int(entry.name), int(fields[1])


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def _wait_and_end(variable: str) -> None:
    sys.stdin.read()
    while pids := marked(variable):
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


if __name__ == "__main__":
    _wait_and_end(sys.argv[1])
