"""Ending a tree: asked politely, then by force, until two looks in a row find nothing of it."""

import signal
from collections.abc import Collection
from time import monotonic

from runner_service.executors.supervisor.ownership import Ownership
from runner_service.executors.supervisor.process_table import Process

KILLED_AT_MOST = 100
"""How many of the processes that had to be ended are named."""

_FIRST_PAUSE = 0.001
_LONGEST_PAUSE = 0.02
_PATIENCE_WITH_KILLED = 5.0
_QUIET_LOOKS = 2


class Ending:
    """The end of some commands, or of everything when `commands` is None. Call `step` when `next_look` has come."""

    def __init__(self, ownership: Ownership, commands: Collection[int] | None, grace: float) -> None:
        self.commands = commands
        self.next_look = monotonic()
        self.killed: dict[tuple[int, int], str] = {}
        self._ownership = ownership
        self._force_from = self.next_look + grace
        self._untouchable: set[tuple[int, int]] = set()
        self._pause = _FIRST_PAUSE
        self._quiet_looks = 0

    def step(self) -> bool:
        """Looks, signals what is there, and returns whether all is over."""
        now = monotonic()
        if now >= self._force_from:
            for each in self._ownership.strike(self.commands, KILLED_AT_MOST):
                self.killed.setdefault((each.pid, each.start), each.name)
        present = [
            each for each in self._ownership.members(self.commands) if (each.pid, each.start) not in self._untouchable
        ]
        self._quiet_looks = 0 if present else self._quiet_looks + 1
        for each in present:
            self._signal(each, by_force=now >= self._force_from)
        self.next_look = now + self._pause
        self._pause = min(self._pause * 2, _LONGEST_PAUSE)
        return self._quiet_looks >= _QUIET_LOOKS or now >= self._force_from + _PATIENCE_WITH_KILLED

    def _signal(self, target: Process, *, by_force: bool) -> None:
        key = (target.pid, target.start)
        allowed = True
        if by_force:
            allowed = self._ownership.send(target, signal.SIGKILL)
        elif key not in self.killed:
            # A stopped process acts on SIGTERM only once it continues.
            allowed = self._ownership.send(target, signal.SIGTERM, signal.SIGCONT)
        if allowed:
            self.killed.setdefault(key, target.name)
        else:
            self._untouchable.add(key)
