"""Linux processes: parents, names, start times, usage; and signals safe against pid reuse."""

import contextlib
import os
import resource
import signal
import sys
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from runner_service.executors.supervisor.tags import RLIMIT_LOCKS, Limits

_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Process(NamedTuple):
    """A process. `start` (clock ticks since boot) tells it from a later one with the same `pid`.

    `cpu_time` is in seconds, of the process and the children it has waited for; `resident` is in bytes.
    """

    pid: int
    start: int
    name: str
    is_alive: bool
    parent: int
    session: int
    cpu_time: float = 0.0
    resident: int = 0


def process(pid: int) -> Process | None:
    """Returns the process `pid`, a zombie too; None if there is none."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123  # pathlib would double what the supervisor imports
            head, _, tail = file.read().rpartition(b")")
    except OSError:
        return None
    name = head.partition(b"(")[2].decode("utf-8", "replace")
    fields = tail.split()
    state, parent, session, start = fields[0], int(fields[1]), int(fields[3]), int(fields[19])
    cpu_time = sum(map(int, fields[11:15])) * _TICK_SECONDS
    return Process(
        pid, start, name, state not in {b"Z", b"X"}, parent, session, cpu_time, int(fields[21]) * _PAGE_BYTES
    )


def is_stopped(pid: int) -> bool:
    """Returns whether `pid` was stopped by a signal or a tracer."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:  # noqa: PTH123  # as above
            return file.read().rpartition(b")")[2].split()[0] in {b"T", b"t"}
    except OSError:
        return False


def ancestors() -> frozenset[int]:
    """Returns this process and all that it descends from, and the numbers that are no single process."""
    found = {-1, 0, 1}
    pid = os.getpid()
    while pid not in found:
        found.add(pid)
        seen = process(pid)
        pid = seen.parent if seen else 0
    return frozenset(found)


def children(pid: int) -> list[int]:
    """Returns the children of all threads of `pid`."""
    found: list[int] = []
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):  # noqa: PTH208  # as above
            found += _children_of_thread(pid, thread)
    except (FileNotFoundError, ProcessLookupError):
        return found
    return found


def adopted_and_own() -> list[int]:
    """Returns the children of this process, of all its threads, adopted orphans included."""
    return children(os.getpid())


def _children_of_thread(pid: int, thread: str) -> list[int]:
    try:
        with open(f"/proc/{pid}/task/{thread}/children", "rb") as file:  # noqa: PTH123  # as above
            return [int(child) for child in file.read().split()]
    except ProcessLookupError:
        return []


def all_pids() -> Iterator[int]:
    """Yields every visible pid."""
    return (int(entry) for entry in os.listdir("/proc") if entry.isdigit())  # noqa: PTH208  # as above


def descendants(roots: Iterable[int]) -> dict[int, Process]:
    """Returns the living processes among `roots` and everything below them."""
    return {each.pid: each for each in walk(roots) if each.is_alive}


def walk(roots: Iterable[int]) -> Iterator[Process]:
    """Yields `roots` and all their descendants, zombies too."""
    found: set[int] = set()
    waiting = list(roots)
    while waiting:
        pid = waiting.pop()
        seen = None if pid in found else process(pid)
        if seen:
            found.add(pid)
            yield seen
            if seen.is_alive:
                waiting += children(pid)


def memory_of(seen: Process) -> int:
    """Returns the proportional set size in bytes. Takes about 1 ms for a process of some GB."""
    with contextlib.suppress(OSError), open(f"/proc/{seen.pid}/smaps_rollup", "rb") as file:  # noqa: PTH123  # as above
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1]) * 1024
    return seen.resident


def limits_of(pid: int) -> Limits:
    """Returns the soft and hard limit that carry the tag; (-1, -1) if there is no such process."""
    if sys.platform != "linux":
        return (-1, -1)
    try:
        return resource.prlimit(pid, RLIMIT_LOCKS)
    except ProcessLookupError:
        return (-1, -1)
    except PermissionError:
        return _limits_of_another_user(pid)


def _limits_of_another_user(pid: int) -> Limits:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/limits", encoding="ascii") as file:  # noqa: PTH123  # as above
        for line in file:
            if line.startswith("Max file locks"):
                soft, hard = line.split()[3:5]
                return tuple(-1 if value == "unlimited" else int(value) for value in (soft, hard))  # type: ignore[return-value]  # of two
    return (-1, -1)


def send(target: Process, *signals: signal.Signals) -> bool:
    """Signals exactly this process, never one that reused its pid. False if not permitted.

    Never signals this process, its parent, or pid 1, 0 or -1.
    """
    if sys.platform != "linux" or target.pid in {-1, 0, 1, os.getpid(), os.getppid()}:
        return False
    try:
        handle = os.pidfd_open(target.pid)
    except ProcessLookupError:
        return True
    except OSError:
        return _send_by_number(target, *signals)
    try:
        now = process(target.pid)
        if now and now.start == target.start:
            for number in signals:
                signal.pidfd_send_signal(handle, number)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    finally:
        os.close(handle)
    return True


def _send_by_number(target: Process, *signals: signal.Signals) -> bool:
    """Fallback without pidfds; leaves a race of microseconds after the check."""
    now = process(target.pid)
    if not now or now.start != target.start:
        return True
    try:
        for number in signals:
            os.kill(target.pid, number)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return True
