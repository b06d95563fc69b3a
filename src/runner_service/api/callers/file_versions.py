"""Whether a file has changed, by its status."""

import os
from pathlib import Path

Version = tuple[int, int, int, int] | None


def version_of(path: Path) -> Version:
    """Returns what changes whenever the file does; None without one.

    The inode sees that a symlink on the way was replaced, the ctime a rewrite in place that keeps the mtime.
    """
    try:
        status = os.stat(path)  # noqa: PTH116  # follows symlinks, as reading does
    except OSError:
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_size
