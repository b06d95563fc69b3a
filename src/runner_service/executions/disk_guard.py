"""Ends the execution that stores most while the disk of STATE_DIR becomes full, so that the others go on."""

import asyncio
import logging
import os
from pathlib import Path

from runner_service import states
from runner_service.errors import DiskLimitEnd
from runner_service.executions.registry import Registry

logger = logging.getLogger(__name__)

_CHECK_INTERVAL_SECONDS = 0.1  # what is written meanwhile has to fit into what is kept free
_MIN_STORED_BYTES = 1024 * 1024  # to end an execution that has stored less would not help
_MAX_SHARE = 20  # of a disk, that is kept free
_STEPS = 4  # how often an execution ends while what is kept free is used up


async def guard_disk(state_dir: Path, min_free_bytes: int, registry: Registry) -> None:
    """Looks at the free space, for ever; ends one execution at a time.

    What has ended keeps its space. So the next one ends only when the space has become less again, and those that store
    little go on in what is kept free.
    """
    bar = None
    while min_free_bytes:
        try:
            free, total = await asyncio.to_thread(_space, state_dir)
        except OSError as error:  # gone: the log says more
            logger.warning("disk_space_unknown error=%s", error)
            free = total = 0
        floor = min(min_free_bytes, total // _MAX_SHARE)
        if free >= floor:
            bar = None
        elif free < (floor if bar is None else bar) and _end_largest(registry, free, floor):
            bar = free - floor // _STEPS
        await asyncio.sleep(_CHECK_INTERVAL_SECONDS)


def _end_largest(registry: Registry, free: int, floor: int) -> bool:
    running = [each for each in registry.in_memory() if states.is_running(each.state)]
    if any(each.is_stopping for each in running):
        return False
    largest = max(running, key=lambda each: each.stream.quota.stored, default=None)
    if largest is None or largest.stream.quota.stored < _MIN_STORED_BYTES:
        return False
    logger.warning("disk_nearly_full free=%d execution=%s stored=%d", free, largest.id, largest.stream.quota.stored)
    largest.stop(
        DiskLimitEnd(
            f"the disk of the service is nearly full (less than {floor} bytes are free, STATE_MIN_FREE_BYTES), and "
            "this execution stored most: make room, or give the agent a task with less output"
        )
    )
    return True


def _space(state_dir: Path) -> tuple[int, int]:
    found = os.statvfs(state_dir)
    return found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
