"""Removes directories, without `shutil.rmtree`: that recurses, and does not stop."""

import os

from runner_service.executors.local.deadline import Deadline
from runner_service.executors.local.paths import Place
from runner_service.executors.protocol import FileError

_MAX_DEPTH = 200
_LIST_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def remove_tree(place: Place, deadline: Deadline) -> None:
    """Removes a directory with all below it, depth first, with one descriptor per level. Raises FileError, OSError."""
    levels = [(place.name, os.open(place.name, _LIST_FLAGS, dir_fd=place.directory))]
    try:
        while levels:
            name, directory = levels[-1]
            below = _removed_files(directory, place.path, deadline)
            if below is None:
                levels.pop()
                os.close(directory)
                os.rmdir(name, dir_fd=levels[-1][1] if levels else place.directory)
            elif len(levels) == _MAX_DEPTH:
                raise FileError(
                    "too_large", f"{place.path}: nested more than {_MAX_DEPTH} deep; remove it by a command"
                )
            else:
                levels.append((below, os.open(below, _LIST_FLAGS, dir_fd=directory)))
    finally:
        for _, directory in levels:
            os.close(directory)


def _removed_files(directory: int, path: str, deadline: Deadline) -> str | None:
    """Removes the files of a directory until it comes to another directory, whose name it returns."""
    with os.scandir(directory) as entries:
        for entry in entries:
            deadline.require(path)
            if entry.is_dir(follow_symlinks=False):
                return entry.name
            os.unlink(entry.name, dir_fd=directory)
    return None
