"""Raises the OOM score of commands, so that the kernel kills them before the service."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_OWN_SCORE = "/proc/self/oom_score_adj"
_OOM_SCORE_INCREASE = 500
_MAX_OOM_SCORE = 1000


class OomScore:
    """The OOM score of this process. The file is opened early: an undumpable process may not open it."""

    def __init__(self) -> None:
        self._descriptor: int | None = None
        with suppress(OSError):
            self._descriptor = os.open(_OWN_SCORE, os.O_RDWR | os.O_CLOEXEC)

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Raises the score inside the block, where a child inherits it. Needs no privilege."""
        if self._descriptor is None:
            yield
            return
        before = int(os.pread(self._descriptor, 16, 0))
        _write_score(self._descriptor, min(before + _OOM_SCORE_INCREASE, _MAX_OOM_SCORE))
        try:
            yield
        finally:
            _write_score(self._descriptor, before)


def _write_score(descriptor: int, score: int) -> None:
    with suppress(OSError):
        os.pwrite(descriptor, b"%d" % score, 0)
