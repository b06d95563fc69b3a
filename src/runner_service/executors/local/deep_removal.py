"""Removes directories that nobody uses any more, whatever commands have made of them."""

import os
import stat
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from secrets import token_hex

_MAX_DEPTH = 100
LIST_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
"""With which a directory is opened to remove what is in it."""


def remove_whole(path: str) -> None:
    """Removes a directory, however deep it is nested, with directories in it that are closed to their own user.

    What lies too deep to hold a descriptor for each level is moved up first. Blocks. Raises OSError.
    """
    levels = [("", os.open(path, LIST_FLAGS))]
    try:
        while True:
            name, directory = levels[-1]
            if below := removed_files(directory):
                _enter_or_move_up(levels, below)
            elif len(levels) == 1:
                break
            else:
                levels.pop()
                os.close(directory)
                os.rmdir(name, dir_fd=levels[-1][1])
    finally:
        for _, directory in levels:
            os.close(directory)
    Path(path).rmdir()


def _enter_or_move_up(levels: list[tuple[str, int]], below: str) -> None:
    top, directory = levels[0][1], levels[-1][1]
    with suppress(OSError):
        os.chmod(below, stat.S_IRWXU, dir_fd=directory)
    if len(levels) == _MAX_DEPTH:
        os.rename(below, f"moved-up-{token_hex(8)}", src_dir_fd=directory, dst_dir_fd=top)
    else:
        levels.append((below, os.open(below, LIST_FLAGS, dir_fd=directory)))


def removed_files(directory: int, check: Callable[[], None] = lambda: None) -> str | None:
    """Removes the files of a directory until it comes to another directory, whose name it returns.

    `check` is called before each step, and may raise.
    """
    with os.scandir(directory) as entries:
        for entry in entries:
            check()
            if entry.is_dir(follow_symlinks=False):
                return entry.name
            os.unlink(entry.name, dir_fd=directory)
    return None
