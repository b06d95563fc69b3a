"""Which processes belong to which command: by tag and ancestry on Linux, by process group elsewhere."""

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
from runner_service.executors.supervisor.tags import RLIMIT_LOCKS, Slots, Zone, zone_below

_PR_SET_CHILD_SUBREAPER = 36
_PAUSE_WHILE_CLEARING = 0.01


class Ownership(Protocol):
    """Knows the processes of every command that was begun and not yet forgotten."""

    control: str
    zone: Zone | None

    @contextmanager
    def marking(self, command: int) -> Iterator[None]:
        """Marks the process that is started in this block, and so all that come from it."""

    def started(self, command: int, pid: int) -> None:
        """Takes note of the shell of a command."""

    def reaped(self, pid: int) -> int | None:
        """Takes note that a child is gone for good; returns the command whose shell it was."""

    def left_behind(self, command: int) -> bool:
        """Says whether a command has processes although its shell has ended."""

    def members(self, commands: Collection[int] | None) -> list[Process]:
        """Returns what lives of these commands, of all when None."""

    def tops(self) -> dict[int, list[int]]:
        """Returns, for each command, the processes that all of it descends from; nothing where nobody knows."""

    def send(self, target: Process, *signals: signal.Signals) -> bool:
        """Signals a member; False when it may not be signalled."""

    def strike(self, commands: Collection[int] | None, named: int) -> list[Process]:
        """Kills at once what can be told without looking at each process, and returns some that were there before."""

    def forget(self, commands: Collection[int]) -> None:
        """Gives up what is known of commands that have ended."""


class _Command:
    """What is known of a command; `session` is 0 once another session may have its number."""

    def __init__(self, slot: int | None) -> None:
        self.slot = slot
        self.session = 0


class Tree:
    """Everything that descends from a command, however it tried to get away.

    Orphans are adopted by the supervisor, so all there is hangs below it. Which command a child of the supervisor comes
    from is told by its tag. One that changed its own tag is known by its session, or because it was seen when only one
    command was there; else it is a stray, which is ended as soon as no command is left that might own it.
    """

    def __init__(self) -> None:
        self.zone = _take_zone()
        self.control = "subreaper+tag+guardian" if self.zone else "subreaper+guardian"
        self._slots = Slots()
        self._commands: dict[int, _Command] = {}
        self._by_slot: dict[int, int] = {}
        self._shells: dict[int, int] = {}
        self._seen: dict[tuple[int, int], int] = {}

    @contextmanager
    def marking(self, command: int) -> Iterator[None]:
        """Lowers the soft limit to the tag of the command and raises it again."""
        slot = self._slots.take() if self.zone else None
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
        """Takes note of the shell, whose pid is also that of its session."""
        for other in self._commands.values():
            if other.session == pid:
                other.session = 0
        self._commands[command].session = pid
        self._shells[pid] = command

    def reaped(self, pid: int) -> int | None:
        """Takes note that a child is gone for good; returns the command whose shell it was."""
        return self._shells.pop(pid, None)

    def left_behind(self, command: int) -> bool:
        """Says whether a command has processes although its shell has ended."""
        orphans = [pid for pid in process_table.adopted_and_own() if pid not in self._shells]
        return any(self._owner(pid) == command for pid in orphans)

    def members(self, commands: Collection[int] | None) -> list[Process]:
        """Returns what lives of these commands, of all when None."""
        mine = process_table.adopted_and_own()
        if commands is not None:
            owners = {*commands, None} if self._commands.keys() <= set(commands) else set(commands)
            mine = [pid for pid in mine if self._owner(pid) in owners]
        return list(process_table.descendants(mine).values())

    def tops(self) -> dict[int, list[int]]:
        """Returns, for each command, the processes that all others of it descend from."""
        tops: dict[int, list[int]] = {command: [] for command in self._commands}
        for pid in process_table.adopted_and_own() if tops else ():
            if (owner := self._owner(pid)) in tops:
                tops[owner].append(pid)
        return tops

    def send(self, target: Process, *signals: signal.Signals) -> bool:
        """Signals a member; False when it may not be signalled."""
        return process_table.send(target, *signals)

    def strike(self, commands: Collection[int] | None, named: int) -> list[Process]:
        """Kills the group of each command's shell: what grows faster than one can look at it is mostly that."""
        struck: list[Process] = []
        tops = self.tops()
        for command in tops.keys() if commands is None else tops.keys() & set(commands):
            session = self._commands[command].session
            # Its number is no other's as long as there is a process of that session, or the shell waits for us.
            if session and any(pid == session or _session_of(pid) == session for pid in tops[command]):
                struck += islice(process_table.walk(tops[command]), named)
                with suppress(ProcessLookupError, PermissionError):
                    os.killpg(session, signal.SIGKILL)
        return [each for each in struck if each.is_alive]

    def forget(self, commands: Collection[int]) -> None:
        """Gives up what is known of commands that have ended."""
        for command in commands:
            known = self._commands.pop(command, None)
            if known and known.slot is not None:
                self._slots.give_back(known.slot)
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
    """The process group of a command: all there is where the kernel has no subreaper. Who leaves it is lost."""

    def __init__(self) -> None:
        self.zone: Zone | None = None
        self.control = "process-group+guardian"
        self._groups: dict[int, int] = {}
        self._shells: dict[int, int] = {}

    @contextmanager
    def marking(self, command: int) -> Iterator[None]:  # noqa: ARG002  # as the Protocol has it
        """Does nothing: a group needs no mark."""
        yield

    def started(self, command: int, pid: int) -> None:
        """Takes note of the shell, whose pid is also that of its group."""
        self._groups[command] = pid
        self._shells[pid] = command

    def reaped(self, pid: int) -> int | None:
        """Takes note that a child is gone for good; returns the command whose shell it was."""
        return self._shells.pop(pid, None)

    def left_behind(self, command: int) -> bool:
        """Says whether a command has processes although its shell has ended."""
        return _group_exists(self._groups[command])

    def members(self, commands: Collection[int] | None) -> list[Process]:
        """Returns one entry for each group that exists."""
        groups = [group for command, group in self._groups.items() if commands is None or command in commands]
        return [Process(group, 0, "process group", True, 0, group) for group in groups if _group_exists(group)]

    def tops(self) -> dict[int, list[int]]:
        """Returns nothing: a group is not counted."""
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

    def strike(self, commands: Collection[int] | None, named: int) -> list[Process]:  # noqa: ARG002  # as the Protocol has it
        """Leaves it to `send`, which signals whole groups anyway."""
        return []

    def forget(self, commands: Collection[int]) -> None:
        """Gives up what is known of commands that have ended."""
        for command in commands:
            self._groups.pop(command, None)


def take_ownership() -> Ownership:
    """Makes this process able to own commands, as well as the kernel allows."""
    return Tree() if _become_subreaper() else Groups()


def clear(zone: Zone) -> None:
    """Ends at once everything that carries a tag of `zone`: what a supervisor that is gone has left."""
    for _ in range(200):
        tagged = [
            process_table.process(pid)
            for pid in process_table.all_pids()
            if zone.span.holds(process_table.limits_of(pid))
        ]
        living = [each for each in tagged if each and each.is_alive]
        for each in living:
            process_table.send(each, signal.SIGKILL)
        if not living:
            return
        sleep(_PAUSE_WHILE_CLEARING)


def _become_subreaper() -> bool:
    if sys.platform != "linux":
        return False
    with suppress(OSError, AttributeError):
        process_table.adopted_and_own()
        return bool(ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0)
    return False


def _take_zone() -> Zone | None:
    try:
        zone = _free_zone()
        if zone:
            resource.setrlimit(RLIMIT_LOCKS, (zone.span.high, zone.span.high))
    except (OSError, ValueError):
        return None
    return zone


def _free_zone() -> Zone | None:
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
