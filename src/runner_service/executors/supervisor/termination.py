"""Ends process trees: SIGTERM, then SIGKILL, until two checks in a row find nothing."""

import signal
from collections.abc import Collection
from time import monotonic

from runner_service.executors.supervisor.process_ownership import Ownership
from runner_service.executors.supervisor.process_table import Process

MAX_NAMED_PROCESSES = 100
"""How many of the killed processes are named."""

_FIRST_INTERVAL_SECONDS = 0.001
_MAX_INTERVAL_SECONDS = 0.02
_KILL_TIMEOUT_SECONDS = 5.0
"""How long what SIGKILL does not end is waited for, since the last process that was not known before."""
_MAX_KNOWN = 100_000
_QUIET_CHECKS = 2


class Termination:
    """Ends some commands, or all if `commands` is None. Call `step` once `next_check` is due."""

    def __init__(self, ownership: Ownership, commands: Collection[int] | None, grace: float) -> None:
        self.commands = commands
        self.next_check = monotonic()
        self.killed: dict[tuple[int, int], str] = {}
        self._ownership = ownership
        self._force_from = self.next_check + grace
        self._last_new = self.next_check
        self._untouchable: set[tuple[int, int]] = set()
        self._pause = _FIRST_INTERVAL_SECONDS
        self._quiet_checks = 0

    def skip_grace(self) -> None:
        """Lets the next step, which is due now, use SIGKILL."""
        self.next_check = monotonic()
        self._force_from = min(self._force_from, self.next_check)

    def step(self) -> bool:
        """Signals what is still there; returns whether everything has ended or is given up.

        What multiplies is not given up: it would fill the machine.
        """
        now = monotonic()
        if now >= self._force_from:
            for each in self._ownership.kill_groups(self.commands, MAX_NAMED_PROCESSES):
                self.killed.setdefault((each.pid, each.start), each.name)
        present = [
            each for each in self._ownership.members(self.commands) if (each.pid, each.start) not in self._untouchable
        ]
        self._quiet_checks = 0 if present else self._quiet_checks + 1
        for each in present:
            self._signal(each, by_force=now >= self._force_from)
        self.next_check = now + self._pause
        self._pause = min(self._pause * 2, _MAX_INTERVAL_SECONDS)
        return (
            self._quiet_checks >= _QUIET_CHECKS or now >= max(self._force_from, self._last_new) + _KILL_TIMEOUT_SECONDS
        )

    def _signal(self, target: Process, *, by_force: bool) -> None:
        key = (target.pid, target.start)
        allowed = True
        if key not in self.killed:
            self._last_new = monotonic()
        if by_force:
            allowed = self._ownership.send(target, signal.SIGKILL)
        elif key not in self.killed:
            # A stopped process acts on SIGTERM only once it continues.
            allowed = self._ownership.send(target, signal.SIGTERM, signal.SIGCONT)
        if not allowed:
            self._untouchable.add(key)
        elif len(self.killed) < _MAX_KNOWN:
            self.killed.setdefault(key, target.name)
