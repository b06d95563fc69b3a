"""Defaults from the cores and memory that this process may use."""

import os
import resource
from contextlib import suppress
from pathlib import Path

_EXECUTIONS_PER_CORE = 64
_MIN_EXECUTIONS, _MAX_EXECUTIONS = 16, 256
_BYTES_PER_EXECUTION = 4 * 1024 * 1024
_MAX_PROCESSES = 4096
_CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
_PROCESS_LIMITS = (Path("/proc/sys/kernel/pid_max"), Path("/sys/fs/cgroup/pids.max"))


def default_concurrency() -> int:
    """Returns how many concurrent executions this machine can be expected to handle.

    An execution that waits for its model takes 0.2 MiB and no CPU; with a long conversation and a slow watcher some
    MiB. One whose model streams takes 1 % of a core of the one event loop, so further cores only help commands.
    """
    return max(
        _MIN_EXECUTIONS,
        min(_EXECUTIONS_PER_CORE * usable_cores(), _MAX_EXECUTIONS, usable_memory() // _BYTES_PER_EXECUTION),
    )


def default_command_memory() -> int:
    """Returns how many bytes the commands of one execution can have without the machine running out of memory."""
    return usable_memory() * 3 // 4


def default_command_processes() -> int:
    """Returns how many processes the commands of one execution can have and leave as many for everybody else."""
    limits = [resource.getrlimit(resource.RLIMIT_NPROC)[0]]
    for path in _PROCESS_LIMITS:
        with suppress(OSError, ValueError):  # not Linux, no such group, or no limit: "max"
            limits.append(int(path.read_text()))
    return min(_MAX_PROCESSES, *(limit // 2 for limit in limits if limit > 0))


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
