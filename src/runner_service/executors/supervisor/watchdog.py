"""The watchdog: looks at what the commands of an execution use while they run, and says which one is to end."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from math import inf
from time import monotonic
from typing import NamedTuple

from runner_service.executors.supervisor import process_table
from runner_service.executors.supervisor.ownership import Ownership, Tree
from runner_service.executors.supervisor.process_table import Process

_INTERVAL = 0.1
_PAUSE_PER_LOOK = 9
"""A look that takes long is followed by a pause this many times as long, so that looking never takes over."""


class Quota(NamedTuple):
    """What is allowed; 0 is no limit.

    `memory` (bytes) and `processes` are of all commands of an execution together, at any one time; `cpu_time` (seconds)
    is of each command, with all that came from it.
    """

    memory: int = 0
    processes: int = 0
    cpu_time: float = 0.0


class Excess(NamedTuple):
    """A command that has to be ended, the field of the quota that was exceeded, and its value."""

    command: int
    limit: str
    allowed: float


class _Watched:
    """A command that is looked at."""

    def __init__(self, execution: int) -> None:
        self.execution = execution
        self._spent_by_tops: dict[tuple[int, int], float] = {}

    def cpu_time(self, processes: Iterable[Process], tops: Iterable[int]) -> float:
        """Returns the CPU seconds of what lives, and of what has ended, waited for by nobody but the supervisor."""
        below = 0.0
        known_tops = set(tops)
        for each in processes:
            if each.pid in known_tops:
                self._spent_by_tops[each.pid, each.start] = each.cpu_time
            else:
                below += each.cpu_time
        return below + sum(self._spent_by_tops.values())


class _Use(NamedTuple):
    """What a command uses: its processes, zombies too, at most one more than is allowed; and its CPU seconds."""

    command: int
    processes: list[Process]
    cpu_time: float

    @property
    def resident(self) -> int:
        return sum(each.resident for each in self.processes)

    def memory(self) -> int:
        return sum(map(process_table.memory_of, self.processes))


class Watchdog:
    """Looks at what runs. A command that was found guilty is no longer its concern."""

    def __init__(self, ownership: Ownership, quota: Quota) -> None:
        self.is_in_force = isinstance(ownership, Tree) and any(quota)
        self.next_look = inf
        self._ownership = ownership
        self._quota = quota
        self._watched: dict[int, _Watched] = {}

    def started(self, command: int, execution: int) -> None:
        """Takes note of a command."""
        if self.is_in_force:
            self._watched[command] = _Watched(execution)
            self.next_look = min(self.next_look, monotonic() + _INTERVAL)

    def look_when_due(self) -> list[Excess]:
        """Returns the commands that have to be ended."""
        if (began := monotonic()) < self.next_look:
            return []
        guilty = list(self._look())
        for each in guilty:
            del self._watched[each.command]
        ended = monotonic()
        pause = max(_INTERVAL, (ended - began) * _PAUSE_PER_LOOK)
        self.next_look = ended + pause if self._watched else inf
        return guilty

    def _look(self) -> Iterator[Excess]:
        tops = self._ownership.tops()
        self._watched = {command: each for command, each in self._watched.items() if command in tops}
        uses: dict[int, list[_Use]] = {}
        for command, each in self._watched.items():
            uses.setdefault(each.execution, []).append(self._use(command, tops[command]))
        for used in uses.values():
            yield from self._excesses(used)

    def _use(self, command: int, tops: Sequence[int]) -> _Use:
        at_most = self._quota.processes + 1 if self._quota.processes else None
        processes = list(islice(process_table.walk(tops), at_most))
        cpu_time = self._watched[command].cpu_time(processes, tops) if self._quota.cpu_time else 0.0
        return _Use(command, processes, cpu_time)

    def _excesses(self, uses: Sequence[_Use]) -> Iterator[Excess]:
        """Finds what one execution uses too much: of memory or processes, it is the command's that has most of it."""
        quota = self._quota
        if quota.processes and sum(len(each.processes) for each in uses) > quota.processes:
            yield Excess(max(uses, key=lambda each: len(each.processes)).command, "processes", quota.processes)
        elif quota.memory and (command := self._hog(uses)):
            yield Excess(command, "memory", quota.memory)
        elif quota.cpu_time:
            for each in uses:
                if each.cpu_time > quota.cpu_time:
                    yield Excess(each.command, "cpu_time", quota.cpu_time)

    def _hog(self, uses: Sequence[_Use]) -> int | None:
        """Asks for exact figures, which take time, only when those that are at hand, and never lower, are too high."""
        if sum(each.resident for each in uses) <= self._quota.memory:
            return None
        exact = {each.command: each.memory() for each in uses}
        return max(exact, key=exact.__getitem__) if sum(exact.values()) > self._quota.memory else None
