"""Threads that restrict themselves and start the commands of one execution, where there are no namespaces.

Landlock, seccomp and capabilities are of a thread; what it starts inherits them. The supervisor's own stays free.
"""

import os
import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

from runner_service.executors.supervisor import kernel

T = TypeVar("T")

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIRECTORY = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_ACCESS_BITS_BY_ABI = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_LATEST_ACCESS_BITS = 16
_TRUNCATE, _IOCTL_DEVICE = 1 << 14, 1 << 15
_TCP = 0b11
_SCOPE_ABSTRACT_UNIX_SOCKETS, _SCOPE_SIGNALS = 1, 2
_ABI_WITH_TCP = 4
ABI_WITH_SCOPES = 6

VIEWS = ("list", "read", "write", "device")
"""How a path is opened up: names of a directory, content below it, all below it, or a device."""


class Rules(NamedTuple):
    """What a thread leaves open: paths, each with its view, and whether sockets can be made."""

    paths: Sequence[tuple[str, str]]
    has_network: bool


class RestrictedThread:
    """A thread that has restricted itself.

    Raises:
        OSError, UnsupportedError: it could not.
    """

    def __init__(self, rules: Rules) -> None:
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        self.run(lambda: restrict(rules))

    def run(self, function: Callable[[], T]) -> T:
        """Runs a function in the thread, and returns or raises what it does."""
        done: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()

        def work() -> None:
            try:
                done.put((function(), None))
            except BaseException as error:  # noqa: BLE001  # raised where it was asked for
                done.put((None, error))

        self._work.put(work)
        result, error = done.get()
        if error:
            raise error
        value: T = result
        return value

    def close(self) -> None:
        """Ends the thread; what it started keeps its restrictions."""
        self._work.put(None)

    def _serve(self) -> None:
        while work := self._work.get():
            work()


def restrict(rules: Rules) -> None:
    """Restricts the calling thread, for good."""
    abi = kernel.landlock_abi()
    if abi < 1:
        raise kernel.UnsupportedError("this kernel has no Landlock")
    every = (1 << _ACCESS_BITS_BY_ABI.get(abi, _LATEST_ACCESS_BITS)) - 1
    read = _EXECUTE | _READ_FILE | _READ_DIRECTORY
    device = _READ_FILE | _WRITE_FILE | _TRUNCATE | _IOCTL_DEVICE
    views = {"list": _READ_DIRECTORY, "read": read, "write": every, "device": device}
    scopes = _SCOPE_ABSTRACT_UNIX_SOCKETS | _SCOPE_SIGNALS if abi >= ABI_WITH_SCOPES else 0
    tcp = _TCP if abi >= _ABI_WITH_TCP and not rules.has_network else 0
    kernel.join_new_keyring()
    kernel.set_no_new_privileges()
    opened = [(path, _fitting(path, views[view] & every)) for path, view in rules.paths]
    kernel.restrict_by_landlock(every, tcp, scopes, opened)
    kernel.drop_capabilities()
    denied = (*kernel.DENIED_ALWAYS, *kernel.IO_URING, *(() if rules.has_network else ("socket",)))
    kernel.deny_system_calls(denied)


def _fitting(path: str, access: int) -> int:
    """Returns the part of an access that a rule for a file may have."""
    if os.path.isdir(path):  # noqa: PTH112  # pathlib would double what the supervisor imports
        return access
    return access & (_EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEVICE)
