"""Raises the OOM score of commands, so that the kernel kills them before the service."""

import os
from contextlib import suppress

_OWN_SCORE = "/proc/self/oom_score_adj"
_OOM_SCORE_INCREASE = 500
_MAX_OOM_SCORE = 1000


class RaisedOomScore:
    """Raises the score of this process inside a `with` block, where a child inherits it. Needs no privilege.

    The file is opened early: an undumpable process may not open it.
    """

    def __init__(self) -> None:
        self._before = 0
        self._descriptor: int | None = None
        with suppress(OSError):
            self._descriptor = os.open(_OWN_SCORE, os.O_RDWR | os.O_CLOEXEC)

    def __enter__(self) -> None:
        if self._descriptor is not None:
            self._before = int(os.pread(self._descriptor, 16, 0))
            _write_score(self._descriptor, min(self._before + _OOM_SCORE_INCREASE, _MAX_OOM_SCORE))

    def __exit__(self, *_: object) -> None:
        if self._descriptor is not None:
            _write_score(self._descriptor, self._before)


def _write_score(descriptor: int, score: int) -> None:
    with suppress(OSError):
        os.pwrite(descriptor, b"%d" % score, 0)
