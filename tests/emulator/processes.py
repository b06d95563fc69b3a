"""The processes of a sandbox: known by a variable in their environment, and by descent from one that has it."""

import asyncio
import os
import signal
from collections.abc import Iterator
from pathlib import Path

MARK = "DAYTONA_SANDBOX_ID"


def processes_of(sandbox_id: str) -> set[int]:
    """Returns the living processes of a sandbox, and all below them."""
    mark = f"{MARK}={sandbox_id}".encode()
    parents = dict(_living())
    found = {pid for pid in parents if mark in _environment(pid)}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


async def kill_all(sandbox_id: str) -> None:
    """Kills until nothing is left."""
    while pids := await asyncio.to_thread(processes_of, sandbox_id):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        await asyncio.sleep(0.01)


def _living() -> Iterator[tuple[int, int]]:
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                fields = Path(f"/proc/{entry}/stat").read_bytes().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] not in {b"Z", b"X"}:
                yield int(entry), int(fields[1])


def _environment(pid: int) -> list[bytes]:
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []
