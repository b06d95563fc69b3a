"""Process tags: numbers in a resource limit that the kernel inherits but no longer enforces.

`RLIMIT_LOCKS` has had no effect since Linux 2.4.25, is unlimited by default, survives fork, exec, setsid, an emptied
environment and namespaces, and is still readable on a zombie. A supervisor takes a zone of its numbers for itself and
lowers its hard limit to the top of it, which an ordinary process cannot undo: whoever has a limit in the zone was
started below it. Each command gets a slot of the zone through its soft limit. A service that runs inside a command
takes its zone inside that command's slot, so the outer one still knows whose it is.
"""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

RLIMIT_LOCKS = 10

_TOP = 2**60
_SLOTS = 2**10
_OUTER_SLOT = 2**24

Limits = tuple[int, int]


class Span(NamedTuple):
    """The numbers above `low` up to and including `high`."""

    low: int
    high: int

    @property
    def is_valid(self) -> bool:
        """Whether a supervisor can have taken these numbers: not what somebody else has written into a file."""
        size = self.high - self.low
        return size in {_SLOTS, _OUTER_SLOT * _SLOTS} and self.low >= 0 and self.high <= _TOP and self.low % size == 0

    def holds(self, limits: Limits) -> bool:
        """Returns whether the soft or the hard limit lies within."""
        return any(self.low < limit <= self.high for limit in limits)


class Zone(NamedTuple):
    """The numbers of one supervisor: `span`, cut into slots for its commands; the last slot is its own."""

    span: Span

    @property
    def slot_size(self) -> int:
        """How many numbers each slot has."""
        return (self.span.high - self.span.low) // _SLOTS

    def slot_of(self, limits: Limits) -> int | None:
        """Returns the slot that the limits of a process lie in; None when outside, or the supervisor's own."""
        for limit in limits:
            if self.span.low < limit <= self.span.high - self.slot_size:
                return (limit - self.span.low - 1) // self.slot_size
        return None

    def tag(self, slot: int) -> int:
        """Returns the soft limit that marks a process as of `slot`."""
        return self.span.low + (slot + 1) * self.slot_size


class Slots:
    """Allocates slots, reusing released ones as late as possible."""

    def __init__(self) -> None:
        self._taken: set[int] = set()
        self._next = 0

    def acquire_slot(self) -> int | None:
        """Returns a free slot, or None when all are taken."""
        for _ in range(_SLOTS - 1):
            slot, self._next = self._next, (self._next + 1) % (_SLOTS - 1)
            if slot not in self._taken:
                self._taken.add(slot)
                return slot
        return None

    def release_slot(self, slot: int) -> None:
        """Frees a slot."""
        self._taken.discard(slot)


@contextmanager
def tagged(tag: int) -> Iterator[None]:
    """Tags what this process starts inside the block; 0 is no tag. Whoever is started keeps the hard limit."""
    if not tag:
        yield
        return
    before = resource.getrlimit(RLIMIT_LOCKS)
    resource.setrlimit(RLIMIT_LOCKS, (tag, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(RLIMIT_LOCKS, before)


def zone_below(limits: Limits) -> Zone | None:
    """Returns a random zone that a process with these limits may take; None when they leave no room for one."""
    soft, hard = limits
    if hard == resource.RLIM_INFINITY or hard >= _TOP:
        return _random_zone(Span(0, _TOP), _OUTER_SLOT * _SLOTS)
    if 0 < soft <= hard and soft % _OUTER_SLOT == 0:
        return _random_zone(Span(soft - _OUTER_SLOT, soft), _SLOTS)
    return None


def _random_zone(room: Span, size: int) -> Zone:
    low = room.low + int.from_bytes(os.urandom(8), "big") % ((room.high - room.low) // size) * size
    return Zone(Span(low, low + size))
