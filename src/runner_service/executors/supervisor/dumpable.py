"""Hides a process's environment and memory from other processes of its user (PR_SET_DUMPABLE)."""

import ctypes
import sys
from contextlib import suppress

_PR_SET_DUMPABLE = 4


def make_undumpable() -> None:
    """Denies ptrace and `/proc/PID/environ`, `mem` and the like to all but root; disables core dumps.

    Variables removed from the environment stay in `/proc/PID/environ`, where commands of the same user could read keys.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # a libc without it
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
