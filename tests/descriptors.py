"""Descriptors of a process."""

import os
from itertools import count, filterfalse


def limit_with_room_for(number: int, pid: int | None = None) -> int:
    """Returns the limit of descriptors at which a process may open so many more, wherever its numbers have gaps."""
    directory = f"/proc/{pid or os.getpid()}/fd"
    listed = os.listdir(directory)  # noqa: PTH208  # names alone
    used = {int(each) for each in listed if os.path.lexists(f"{directory}/{each}")}  # not that of the listing
    free = filterfalse(used.__contains__, count())
    return [next(free) for _ in range(number + 1)][-1]
