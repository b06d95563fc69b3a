"""Finds which command each process belongs to, escaped and orphaned ones included."""

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from itertools import islice
from time import sleep
from typing import Protocol

from runner_service.executors.supervisor import process_table
from runner_service.executors.supervisor.process_table import Process
from runner_service.executors.supervisor.tags import RLIMIT_LOCKS, Slots, Span, Zone, zone_below

_PR_SET_CHILD_SUBREAPER = 36
_CLEAR_INTERVAL_SECONDS = 0.01


class Ownership(Protocol):
    """Tracks the processes of every command between `marking` and `remove_commands`."""

    control: str
    zone: Zone | None

    @contextmanager
    def marking(self, command: int) -> Iterator[None]:
        """Marks the process that is started in this block, and so all that come from it."""

    def started(self, command: int, pid: int) -> None:
        """Records the shell of a command."""

    def reaped(self, pid: int) -> int | None:
        """Records that a child was reaped; returns the command whose shell it was."""

    def left_behind(self, command: int) -> bool:
        """Says whether a command has processes although its shell has ended."""

    def members(self, commands: Collection[int] | None) -> list[Process]:
        """Returns the living processes of these commands, of all if None."""

    def tops(self) -> dict[int, list[int]]:
        """Returns, for each command, its topmost processes; empty where the platform cannot tell."""

    def send(self, target: Process, *signals: signal.Signals) -> bool:
        """Signals a member; False when it may not be signalled."""

    def kill_groups(self, commands: Collection[int] | None, named: int) -> list[Process]:
        """Kills the process groups of the commands; returns up to `named` processes that were in them."""

    def remove_commands(self, commands: Collection[int]) -> None:
        """Removes commands that have ended."""


class _Command:
    """A tracked command; `session` is 0 once its number may have been reused."""

    def __init__(self, slot: int | None) -> None:
        self.slot = slot
        self.session = 0


class Tree:
    """All descendants of a command, daemonised ones included.

    The supervisor adopts orphans, so every process is below it. The tag of a child of the supervisor tells its command.
    A process that changed its tag is attributed by its session, or by having been seen while only one command ran;
    otherwise it is a stray, killed once no command is left that might own it.
    """

    def __init__(self) -> None:
        self.zone = _claim_zone()
        self.control = "subreaper+tag+guardian" if self.zone else "subreaper+guardian"
        self._slots = Slots()
        self._commands: dict[int, _Command] = {}
        self._by_slot: dict[int, int] = {}
        self._shells: dict[int, int] = {}
        self._seen: dict[tuple[int, int], int] = {}

    @contextmanager
    def marking(self, command: int) -> Iterator[None]:
        """Sets the soft limit to the tag of the command inside the block."""
        slot = self._slots.acquire_slot() if self.zone else None
        self._commands[command] = _Command(slot)
        if slot is None or self.zone is None:
            yield
            return
        self._by_slot[slot] = command
        top = self.zone.span.high
        resource.setrlimit(RLIMIT_LOCKS, (self.zone.tag(slot), top))
        try:
            yield
        finally:
            resource.setrlimit(RLIMIT_LOCKS, (top, top))

    def started(self, command: int, pid: int) -> None:
        """Records the shell, whose pid is also its session id."""
        for other in self._commands.values():
            if other.session == pid:
                other.session = 0
        self._commands[command].session = pid
        self._shells[pid] = command

    def reaped(self, pid: int) -> int | None:
        """Records that a child was reaped; returns the command whose shell it was."""
        return self._shells.pop(pid, None)

    def left_behind(self, command: int) -> bool:
        """Says whether a command has processes although its shell has ended."""
        orphans = [pid for pid in process_table.adopted_and_own() if pid not in self._shells]
        return any(self._owner(pid) == command for pid in orphans)

    def members(self, commands: Collection[int] | None) -> list[Process]:
        """Returns the living processes of these commands, of all if None."""
        mine = process_table.adopted_and_own()
        if commands is not None:
            owners = {*commands, None} if self._commands.keys() <= set(commands) else set(commands)
            mine = [pid for pid in mine if self._owner(pid) in owners]
        return list(process_table.descendants(mine).values())

    def tops(self) -> dict[int, list[int]]:
        """Returns, for each command, the processes that its others descend from."""
        tops: dict[int, list[int]] = {command: [] for command in self._commands}
        for pid in process_table.adopted_and_own() if tops else ():
            if (owner := self._owner(pid)) in tops:
                tops[owner].append(pid)
        return tops

    def send(self, target: Process, *signals: signal.Signals) -> bool:
        """Signals a member; False when it may not be signalled."""
        return process_table.send(target, *signals)

    def kill_groups(self, commands: Collection[int] | None, named: int) -> list[Process]:
        """Kills the process group of each command's shell: a fork bomb outruns signals to single processes."""
        hit: list[Process] = []
        tops = self.tops()
        for command in tops.keys() if commands is None else tops.keys() & set(commands):
            session = self._commands[command].session
            # The number cannot have been reused while a process of that session exists or the shell is not reaped.
            if session and any(pid == session or _session_of(pid) == session for pid in tops[command]):
                hit += islice(process_table.walk(tops[command]), named)
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(session, signal.SIGKILL)
        return [each for each in hit if each.is_alive]

    def remove_commands(self, commands: Collection[int]) -> None:
        """Removes commands that have ended."""
        for command in commands:
            known = self._commands.pop(command, None)
            if known and known.slot is not None:
                self._slots.release_slot(known.slot)
                del self._by_slot[known.slot]
        if not self._commands:
            self._seen.clear()

    def _owner(self, pid: int) -> int | None:
        if (command := self._shells.get(pid)) is not None:
            return command
        slot = self.zone.slot_of(process_table.limits_of(pid)) if self.zone else None
        return self._by_slot[slot] if slot in self._by_slot else self._owner_by_descent(pid)

    def _owner_by_descent(self, pid: int) -> int | None:
        child = process_table.process(pid)
        if child is None:
            return None
        for command, known in self._commands.items():
            if known.session == child.session:
                return command
        if len(self._commands) == 1:
            self._seen.setdefault((child.pid, child.start), next(iter(self._commands)))
        return self._seen.get((child.pid, child.start))


class Groups:
    """The process group of a command, for kernels without subreapers. A process that leaves the group is lost."""

    def __init__(self) -> None:
        self.zone: Zone | None = None
        self.control = "process-group+guardian"
        self._groups: dict[int, int] = {}
        self._shells: dict[int, int] = {}

    @contextmanager
    def marking(self, command: int) -> Iterator[None]:  # noqa: ARG002  # as the Protocol has it
        """Does nothing: groups need no tag."""
        yield

    def started(self, command: int, pid: int) -> None:
        """Records the shell, whose pid is also its process group."""
        self._groups[command] = pid
        self._shells[pid] = command

    def reaped(self, pid: int) -> int | None:
        """Records that a child was reaped; returns the command whose shell it was."""
        return self._shells.pop(pid, None)

    def left_behind(self, command: int) -> bool:
        """Says whether a command has processes although its shell has ended."""
        return _group_exists(self._groups[command])

    def members(self, commands: Collection[int] | None) -> list[Process]:
        """Returns one entry per existing group."""
        groups = [group for command, group in self._groups.items() if commands is None or command in commands]
        return [Process(group, 0, "process group", True, 0, group) for group in groups if _group_exists(group)]

    def tops(self) -> dict[int, list[int]]:
        """Returns nothing: groups are not inspected."""
        return {}

    def send(self, target: Process, *signals: signal.Signals) -> bool:
        """Signals a whole group; False when none in it may be signalled."""
        try:
            for number in signals:
                os.killpg(target.pid, number)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return True

    def kill_groups(self, commands: Collection[int] | None, named: int) -> list[Process]:  # noqa: ARG002  # as the Protocol has it
        """Does nothing: `send` signals whole groups anyway."""
        return []

    def remove_commands(self, commands: Collection[int]) -> None:
        """Removes commands that have ended."""
        for command in commands:
            self._groups.pop(command, None)


def create_ownership() -> Ownership:
    """Makes this process a child subreaper where the kernel has them."""
    return Tree() if _become_subreaper() else Groups()


def kill_tagged(span: Span) -> None:
    """Kills every process tagged within `span`, such as the orphans of an earlier supervisor. Blocks."""
    spared = process_table.ancestors()
    for _ in range(200):
        tagged = [
            process_table.process(pid)
            for pid in process_table.all_pids()
            if pid not in spared and span.holds(process_table.limits_of(pid))
        ]
        living = [each for each in tagged if each and each.is_alive]
        for each in living:
            process_table.send(each, signal.SIGKILL)
        if not living:
            return
        sleep(_CLEAR_INTERVAL_SECONDS)


def _become_subreaper() -> bool:
    if sys.platform != "linux":
        return False
    with suppress(OSError, AttributeError):
        process_table.adopted_and_own()
        return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    return False


def _claim_zone() -> Zone | None:
    try:
        zone = unused_zone()
        if zone:
            resource.setrlimit(RLIMIT_LOCKS, (zone.span.high, zone.span.high))
    except (OSError, ValueError):
        return None
    return zone


def unused_zone() -> Zone | None:
    """Returns a zone of tags that no process carries and this one may take; None when there is none. Blocks."""
    for _ in range(100):
        zone = zone_below(resource.getrlimit(RLIMIT_LOCKS))
        if zone is None or not any(zone.span.holds(process_table.limits_of(pid)) for pid in process_table.all_pids()):
            return zone
    return None


def _session_of(pid: int) -> int | None:
    found = process_table.process(pid)
    return found.session if found else None


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
