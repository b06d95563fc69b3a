"""Enforces quotas: samples what running commands use and reports those that exceed them."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from math import inf
from time import monotonic
from typing import NamedTuple

from runner_service.executors.supervisor import process_table
from runner_service.executors.supervisor.process_ownership import Ownership, Tree
from runner_service.executors.supervisor.process_table import Process

_CHECK_INTERVAL_SECONDS = 0.1
_PAUSE_FACTOR = 9
"""Pause after a check, as a multiple of its duration, so that checking takes at most a tenth of the time."""


class Quota(NamedTuple):
    """Resource limits; 0 is unlimited.

    `memory` (bytes) and `processes` are of all commands of an execution together, at any one time; `cpu_time` (seconds)
    is of each command, with all that came from it.
    """

    memory: int = 0
    processes: int = 0
    cpu_time: float = 0.0


class QuotaViolation(NamedTuple):
    """A command to end, the quota field that it exceeded, and its value."""

    command: int
    limit: str
    allowed: float


class _Watched:
    """A monitored command."""

    def __init__(self, execution: int) -> None:
        self.execution = execution
        self._spent_by_tops: dict[tuple[int, int], float] = {}

    def cpu_time(self, processes: Iterable[Process], tops: Iterable[int]) -> float:
        """Returns the CPU seconds of living processes and of those already reaped by the supervisor."""
        below = 0.0
        known_tops = set(tops)
        for each in processes:
            if each.pid in known_tops:
                self._spent_by_tops[each.pid, each.start] = each.cpu_time
            else:
                below += each.cpu_time
        return below + sum(self._spent_by_tops.values())


class _Use(NamedTuple):
    """What a command uses: its processes, zombies too, at most one over the limit; and its CPU seconds."""

    command: int
    processes: list[Process]
    cpu_time: float

    @property
    def resident(self) -> int:
        return sum(each.resident for each in self.processes)

    def memory(self) -> int:
        return sum(map(process_table.memory_of, self.processes))


class Watchdog:
    """Monitors running commands, each until it is reported."""

    def __init__(self, ownership: Ownership, quota: Quota) -> None:
        self.is_in_force = isinstance(ownership, Tree) and any(quota)
        self.next_check = inf
        self._ownership = ownership
        self._quota = quota
        self._watched: dict[int, _Watched] = {}

    def started(self, command: int, execution: int) -> None:
        """Starts monitoring a command."""
        if self.is_in_force:
            self._watched[command] = _Watched(execution)
            self.next_check = min(self.next_check, monotonic() + _CHECK_INTERVAL_SECONDS)

    def check_when_due(self) -> list[QuotaViolation]:
        """Returns the commands to end; empty before the next check is due."""
        if (began := monotonic()) < self.next_check:
            return []
        violations = list(self._check())
        for each in violations:
            del self._watched[each.command]
        ended = monotonic()
        pause = max(_CHECK_INTERVAL_SECONDS, (ended - began) * _PAUSE_FACTOR)
        self.next_check = ended + pause if self._watched else inf
        return violations

    def _check(self) -> Iterator[QuotaViolation]:
        tops = self._ownership.tops()
        self._watched = {command: each for command, each in self._watched.items() if command in tops}
        uses: dict[int, list[_Use]] = {}
        for command, each in self._watched.items():
            uses.setdefault(each.execution, []).append(self._use(command, tops[command]))
        for used in uses.values():
            yield from self._exceeded_by(used)

    def _use(self, command: int, tops: Sequence[int]) -> _Use:
        at_most = self._quota.processes + 1 if self._quota.processes else None
        processes = list(islice(process_table.walk(tops), at_most))
        cpu_time = self._watched[command].cpu_time(processes, tops) if self._quota.cpu_time else 0.0
        return _Use(command, processes, cpu_time)

    def _exceeded_by(self, uses: Sequence[_Use]) -> Iterator[QuotaViolation]:
        """Yields the commands to end in one execution: for memory and processes, the largest user."""
        quota = self._quota
        if quota.processes and sum(len(each.processes) for each in uses) > quota.processes:
            yield QuotaViolation(max(uses, key=lambda each: len(each.processes)).command, "processes", quota.processes)
        elif quota.memory and (command := self._largest_command(uses)):
            yield QuotaViolation(command, "memory", quota.memory)
        elif quota.cpu_time:
            for each in uses:
                if each.cpu_time > quota.cpu_time:
                    yield QuotaViolation(each.command, "cpu_time", quota.cpu_time)

    def _largest_command(self, uses: Sequence[_Use]) -> int | None:
        """Returns the command with most memory if the total exceeds the quota.

        Reads exact figures, which is slow, only if the resident sizes, which are never lower, exceed the quota.
        """
        if sum(each.resident for each in uses) <= self._quota.memory:
            return None
        exact = {each.command: each.memory() for each in uses}
        return max(exact, key=exact.__getitem__) if sum(exact.values()) > self._quota.memory else None
