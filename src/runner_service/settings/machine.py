"""What the machine allows: its cores and its memory, as far as this process may use them."""

import os
from pathlib import Path

_PER_CORE = 64
_LEAST = 16
_BYTES_EACH = 4 * 1024 * 1024
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def default_concurrency() -> int:
    """Returns how many executions this machine can be expected to bear at once.

    One that waits for its model costs about 0.5 MiB and no CPU, one whose model speaks some percent of a core, and one
    with a long conversation some MiB: cores bound how many are likely to speak at once, memory how many can wait.
    """
    return max(_LEAST, min(_PER_CORE * usable_cores(), usable_memory() // _BYTES_EACH))


def usable_cores() -> int:
    """Returns how many cores this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def usable_memory() -> int:
    """Returns how many bytes there are for everybody on this machine, or for this container if that is less."""
    installed = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    try:
        limit = int(_CGROUP_LIMIT.read_text())
    except (OSError, ValueError):  # there is no such group, or no limit: "max"
        return installed
    return min(installed, limit)
