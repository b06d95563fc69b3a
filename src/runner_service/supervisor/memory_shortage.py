"""Whom the kernel ends first when the machine runs out of memory: a command, not the service."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_OWN_SCORE = "/proc/self/oom_score_adj"
_RAISED_BY = 500
_HIGHEST = 1000


@contextmanager
def first_to_go() -> Iterator[None]:
    """Raises the score of this process for the block, in which a child inherits it. Anybody may do that."""
    try:
        descriptor = os.open(_OWN_SCORE, os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        before = int(os.pread(descriptor, 16, 0))
        _set(descriptor, min(before + _RAISED_BY, _HIGHEST))
        try:
            yield
        finally:
            _set(descriptor, before)
    finally:
        os.close(descriptor)


def _set(descriptor: int, score: int) -> None:
    with suppress(OSError):
        os.pwrite(descriptor, b"%d" % score, 0)
