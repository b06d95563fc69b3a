"""Removes directories, without `shutil.rmtree`: that recurses, and does not stop."""

import os
from functools import partial

from runner_service.executors.local.deadline import Deadline
from runner_service.executors.local.deep_removal import LIST_FLAGS, removed_files
from runner_service.executors.local.paths import Place
from runner_service.executors.protocol import FileError

_MAX_DEPTH = 200


def remove_tree(place: Place, deadline: Deadline) -> None:
    """Removes a directory with all below it, depth first, with one descriptor per level. Raises FileError, OSError."""
    levels = [(place.name, os.open(place.name, LIST_FLAGS, dir_fd=place.directory))]
    try:
        while levels:
            name, directory = levels[-1]
            below = removed_files(directory, partial(deadline.require, place.path))
            if below is None:
                levels.pop()
                os.close(directory)
                os.rmdir(name, dir_fd=levels[-1][1] if levels else place.directory)
            elif len(levels) == _MAX_DEPTH:
                raise FileError(
                    "too_large", f"{place.path}: nested more than {_MAX_DEPTH} deep; remove it by a command"
                )
            else:
                levels.append((below, os.open(below, LIST_FLAGS, dir_fd=directory)))
    finally:
        for _, directory in levels:
            os.close(directory)
