"""Makes sure that a cell shows what was planned.

Another execution with the same directory may replace a part of it by a link while the cell opens: bubblewrap takes
paths, and would follow it to somewhere outside. So what is seen inside is compared before the first command.
"""

import os
import sys
from collections.abc import Iterable, Mapping

from runner_service.executors.protocol import ConfinementError

Identity = tuple[int, int]
"""The device and the inode of a file or directory."""


def identities_of(paths: Iterable[tuple[str, str]]) -> dict[str, Identity]:
    """Returns, for pairs of where something is seen and where it really is, the identity that is to be seen. Blocks.

    Raises:
        ConfinementError: something is not there, or is reached through a link.
    """
    return {seen: _identity_of(source) for seen, source in paths}


def require_identities(pid: int, planned: Mapping[str, Identity]) -> None:
    """Compares what the process `pid` sees at paths with what it is to see. Blocks. Raises ConfinementError."""
    for path, identity in planned.items():
        try:
            found = os.lstat(f"/proc/{pid}/root{path}")
        except OSError as error:
            raise ConfinementError(f"{path} cannot be found in the cell of the execution: {error.strerror}") from error
        if (found.st_dev, found.st_ino) != identity:
            raise ConfinementError(f"{path} was replaced while the cell of the execution opened; run it again")


def _identity_of(path: str) -> Identity:
    if sys.platform != "linux":
        raise NotImplementedError
    try:
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise ConfinementError(f"{path} cannot be shown in a cell: {error.strerror}") from error
    try:
        # Only the kernel knows where it is, however directories are moved meanwhile.
        if (real := os.readlink(f"/proc/self/fd/{descriptor}")) != path:
            raise ConfinementError(f"{path} was replaced by {real} while a cell was to be opened; run it again")
        found = os.fstat(descriptor)
        return found.st_dev, found.st_ino
    finally:
        os.close(descriptor)
