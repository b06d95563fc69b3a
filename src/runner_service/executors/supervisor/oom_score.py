"""Whom the kernel ends first when the machine runs out of memory: a command, not the service."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_OWN_SCORE = "/proc/self/oom_score_adj"
_RAISED_BY = 500
_HIGHEST = 1000


class Score:
    """The score of this process, opened while it may be: a process that is hidden from its user may not."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        with suppress(OSError):
            self._descriptor = os.open(_OWN_SCORE, os.O_RDWR | os.O_CLOEXEC)

    @contextmanager
    def first_to_go(self) -> Iterator[None]:
        """Raises the score for the block, in which a child inherits it. Anybody may do that."""
        if self._descriptor is None:
            yield
            return
        before = int(os.pread(self._descriptor, 16, 0))
        _set(self._descriptor, min(before + _RAISED_BY, _HIGHEST))
        try:
            yield
        finally:
            _set(self._descriptor, before)


def _set(descriptor: int, score: int) -> None:
    with suppress(OSError):
        os.pwrite(descriptor, b"%d" % score, 0)
