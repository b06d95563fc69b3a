"""Keeps the disk of STATE_DIR from becoming full: ends the execution that stores most, holds a reserve for the ends.

Below STATE_MIN_FREE_BYTES executions end, one at a time. If other programs fill the disk nevertheless, the reserve is
released: executions still end one at a time, their ends are stored in it, and none starts until it can be held again.
"""

import asyncio
import logging
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from runner_service import states
from runner_service.errors import DiskLimitEnd, ExecutionEnd, LogUnavailableEnd
from runner_service.executions.registry import Registry

logger = logging.getLogger(__name__)

_CHECK_INTERVAL_SECONDS = 0.1  # what is written meanwhile has to fit into what is kept free
_MIN_STORED_BYTES = 1024 * 1024  # to end an execution that has stored less would not help
_MAX_SHARE = 20  # of a disk, that is kept free
_STEPS = 4  # how often an execution ends while what is kept free, or the reserve, is used up
_RESERVE_BYTES = 16 * 1024 * 1024  # twice what the log writer holds back when it cannot write
_FULL_SHARE = 10  # of the reserve: less free space than that counts as full


class _Space(NamedTuple):
    free: int
    total: int


class DiskReserve:
    """A file that takes space to be given back when the disk is full. All methods block."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / "reserve"
        self.is_held = self._path.exists()

    @staticmethod
    def size(total: int) -> int:
        """Returns how large it is on a disk of `total` bytes."""
        return min(_RESERVE_BYTES, total // _MAX_SHARE)

    def hold(self, size: int) -> None:
        """Takes the space. Raises OSError."""
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size)
            elif os.fstat(descriptor).st_size < size:
                os.write(descriptor, bytes(size))
        except OSError:
            self._path.unlink(missing_ok=True)
            raise
        finally:
            os.close(descriptor)
        self.is_held = True

    def release(self) -> None:
        """Gives the space back. Raises OSError."""
        self._path.unlink(missing_ok=True)
        self.is_held = False


class DiskGuard:
    """Watches the free space of STATE_DIR. `on_full` is called with True when the reserve is used, False afterwards."""

    def __init__(
        self, state_dir: Path, min_free_bytes: int, registry: Registry, on_full: Callable[[bool], None]
    ) -> None:
        self._state_dir = state_dir
        self._min_free_bytes = min_free_bytes
        self._registry = registry
        self._on_full = on_full
        self._reserve = DiskReserve(state_dir)
        self._bar: int | None = None
        """The free space below which the next execution ends: what has ended keeps its space."""

    async def run(self) -> None:
        """Looks at the free space, for ever."""
        while True:
            try:
                await self._check(await asyncio.to_thread(_space, self._state_dir))
            except OSError as error:  # gone: the log says more
                logger.warning("disk_space_unknown error=%s", error)
            await asyncio.sleep(_CHECK_INTERVAL_SECONDS)

    async def _check(self, space: _Space) -> None:
        size = DiskReserve.size(space.total)
        floor = min(self._min_free_bytes, space.total // _MAX_SHARE)
        if self._reserve.is_held and space.free < size // _FULL_SHARE:
            await asyncio.to_thread(self._reserve.release)
            logger.error("disk_full free=%d released=%d", space.free, size)
            self._on_full(True)
            self._bar = size
        elif not self._reserve.is_held and space.free >= size + max(floor, size):
            with suppress(OSError):  # another program was faster
                await asyncio.to_thread(self._reserve.hold, size)
                self._on_full(False)
        elif self._reserve.is_held and space.free >= floor:
            self._bar = None
        elif space.free < (floor if self._bar is None else self._bar):
            self._end_largest(space.free, floor, size)

    def _end_largest(self, free: int, floor: int, size: int) -> None:
        running = [each for each in self._registry.in_memory() if states.is_running(each.state)]
        largest = max(running, key=lambda each: each.stream.quota.used, default=None)
        stored = largest.stream.quota.used if largest else 0
        if largest is None or (self._reserve.is_held and stored < _MIN_STORED_BYTES):
            return
        if not any(each.is_stopping for each in running):  # else that one still stores what it has left
            logger.warning("disk_nearly_full free=%d execution=%s stored=%d", free, largest.id, stored)
            largest.stop(_nearly_full(floor) if self._reserve.is_held else _full())
        self._bar = free - (floor if self._reserve.is_held else size) // _STEPS


def _nearly_full(floor: int) -> ExecutionEnd:
    return DiskLimitEnd(
        f"the disk of the service is nearly full (less than {floor} bytes are free, STATE_MIN_FREE_BYTES), and this "
        "execution stored most: make room, or give the agent a task with less output"
    )


def _full() -> ExecutionEnd:
    return LogUnavailableEnd("the disk of the service is full: make room on the disk of STATE_DIR")


def _space(state_dir: Path) -> _Space:
    found = os.statvfs(state_dir)
    return _Space(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize)
