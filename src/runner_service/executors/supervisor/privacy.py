"""Keeping a process's environment and memory from the other processes of its user."""

import ctypes
import sys
from contextlib import suppress

_PR_SET_DUMPABLE = 4


def hide_from_own_user() -> None:
    """Closes `/proc/PID/environ`, `mem` and the like, and ptrace, for all but root; it leaves no core dumps either.

    A variable that is removed stays in `/proc/PID/environ`, where commands, being of the same user, would read keys.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # a libc without it
            ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
