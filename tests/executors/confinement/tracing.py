"""Holds processes where they fork, to see what is left when something is killed just then. Linux, by ptrace."""

import ctypes
import os
import signal
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from types import TracebackType
from typing import Self

STAND_IN = """#!/bin/sh
[ "$1" != --version ] && [ -e '{flag}' ] && kill -STOP $$
exec {program} "$@"
"""
"""Stops before it becomes the program, if there is a file `flag`."""

_SEIZE, _CONTINUE, _DETACH = 0x4206, 7, 17
_TRACE_FORK, _TRACE_CLONE = 1 << 1, 1 << 3
_FORK_EVENTS = (1, 3)
_ALL_CHILDREN = 0x40000000

_libc = ctypes.CDLL(None, use_errno=True)


class Held:
    """A stopped process that runs until it has forked `forks` generations deep: 1 is its own fork, 2 that of its child.

    `wait` returns once that is so. The last two of them are held then, until the block ends.
    """

    def __init__(self, pid: int, forks: int) -> None:
        self.pids = [pid]
        self._forks = forks
        self._reached: SimpleQueue[BaseException | None] = SimpleQueue()
        self._end: SimpleQueue[None] = SimpleQueue()
        self._thread = Thread(target=self._trace, daemon=True)  # all requests have to come from one thread

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.put(None)
        self._thread.join(10)

    def wait(self) -> None:
        """Blocks until the forks are done."""
        if error := self._reached.get(timeout=20):
            raise error

    def _trace(self) -> None:
        try:
            _request(_SEIZE, self.pids[0], _TRACE_FORK | _TRACE_CLONE)
            os.kill(self.pids[0], signal.SIGCONT)
            for generation in range(self._forks):
                if generation:
                    _request(_CONTINUE, self.pids[-2], 0)  # its child waits for it
                self.pids.append(_run_until_fork(self.pids[-1]))
        except BaseException as error:  # noqa: BLE001  # raised where it is waited for
            self._reached.put(error)
            return
        self._reached.put(None)
        self._end.get()
        for pid in reversed(self.pids):  # a killed first process of a namespace ends once its children are waited for
            _let_go(pid)


def _run_until_fork(pid: int) -> int:
    while True:
        _, status = os.waitpid(pid, _ALL_CHILDREN)
        assert os.WIFSTOPPED(status), status
        if status >> 16 in _FORK_EVENTS:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            if len(children) == 1:
                return int(children[0])
        _request(_CONTINUE, pid, 0)


def _let_go(pid: int) -> None:
    try:
        _request(_DETACH, pid, 0)
    except ProcessLookupError:  # killed, or not stopped yet
        try:
            os.waitpid(pid, _ALL_CHILDREN)
            _request(_DETACH, pid, 0)
        except (ChildProcessError, ProcessLookupError):
            return


def _request(request: int, pid: int, value: int) -> None:
    if _libc.ptrace(request, pid, None, ctypes.c_void_p(value)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
