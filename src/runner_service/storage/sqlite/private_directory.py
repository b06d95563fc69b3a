"""Checks that nobody else can have put anything into STATE_DIR."""

import os
import stat
from pathlib import Path

from runner_service.storage.event_log import StateDirError

_WRITABLE_BY_OTHERS = stat.S_IWGRP | stat.S_IWOTH


def require_private(state_dir: Path) -> None:
    """Refuses a directory of another user, one that others may write, and files in it that are links. Blocks.

    Raises:
        StateDirError: it cannot be trusted; the text says what to do.
        OSError: it cannot be read.
    """
    found = state_dir.stat()
    named = state_dir.lstat()
    if found.st_uid != os.geteuid() or named.st_uid not in {os.geteuid(), 0}:
        raise StateDirError(f"STATE_DIR {state_dir} belongs to another user; name a directory of this one")
    if found.st_mode & _WRITABLE_BY_OTHERS:
        raise StateDirError(
            f"STATE_DIR {state_dir} may be written by other users; chmod 700 it once you know what is in it, or name a "
            "directory below it"
        )
    with os.scandir(state_dir) as entries:
        links = sorted(entry.name for entry in entries if entry.is_symlink())
    if links:
        raise StateDirError(
            f"STATE_DIR {state_dir} has links in it ({', '.join(links[:3])}); replace them by what they name"
        )
