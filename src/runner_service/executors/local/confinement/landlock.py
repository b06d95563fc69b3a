"""The restricted thread: confinement where no namespaces can be made. Landlock only adds what is allowed.

So "everything but what is hidden" is an enumeration of the neighbours of what is hidden, and what lies in a writable
directory cannot be kept from being written: git's hooks are not protected, which `started` says.
"""

import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from runner_service.executors.confinement import Confinement, is_below
from runner_service.executors.local.confinement.hidden import CERTIFICATE_STORES, NAME_SERVICE_FILES
from runner_service.executors.local.confinement.mounts import Mounts
from runner_service.executors.local.supervisor_client import Child, SupervisorClient
from runner_service.executors.protocol import ConfinementError, KilledProcess
from runner_service.executors.supervisor import kernel
from runner_service.executors.supervisor.restrict import ABI_WITH_SCOPES

if TYPE_CHECKING:
    from runner_service.executors.local.commands import SupervisorSource

_MAX_RULES = 5000
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")
"""Not /dev/pts, which has the terminals of the user: a rule cannot tell those from what a command opens itself."""
_CONTAINER_SOCKETS = (
    "/run/docker.sock",
    "/var/run/docker.sock",
    "/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/run/crio/crio.sock",
)
GAPS = ("git-hooks", "names-visible", "processes-visible", "interfaces-visible", "metadata-outside")
"""What a thread leaves open at every level.

Hooks of git, names of files, of processes and of network interfaces, modes and times of the user's own files.
"""


def landlock_mechanism() -> str:
    """Returns what a thread would be restricted by, such as `landlock 7+seccomp`; empty when it cannot be."""
    abi = kernel.landlock_abi() if platform.system() == "Linux" else 0
    return f"landlock {abi}+seccomp" if abi and platform.machine() in kernel.ARCHITECTURES else ""


def gaps_of_thread(asked: Confinement) -> tuple[str, ...]:
    """Returns what a restricted thread leaves open at a level. Blocks.

    Raises:
        ConfinementError: it cannot hold the level.
    """
    if asked.network == "proxy":
        raise ConfinementError("network level proxy needs namespaces: a thread that restricts itself cannot hold it")
    gaps = (*GAPS, *(() if kernel.landlock_abi() >= ABI_WITH_SCOPES else ("signals", "abstract-unix-sockets")))
    if asked.network == "none":
        return gaps
    if sockets := [path for path in _CONTAINER_SOCKETS if os.access(path, os.W_OK)]:
        raise ConfinementError(f"{sockets[0]} can be reached from a restricted thread: use network level none")
    if kernel.landlock_abi() < ABI_WITH_SCOPES:
        raise ConfinementError("network level all needs Landlock 6 (Linux 6.12) where there are no namespaces")
    return (*gaps, "loopback", "unix-sockets")


def thread_rules(mounts: Mounts, root: str, private: Sequence[str]) -> list[tuple[str, str]]:
    """Returns paths and views for the thread, from what a cell would show. Blocks on the file system.

    Raises:
        ConfinementError: something below a writable directory, or below the root, is to be hidden.
    """
    hidden = [path for path, view in mounts.views.items() if view == "hidden"]
    rules = [("/proc", "read"), *((f"/dev/{name}", "device") for name in _DEVICES)]
    if mounts.is_strict:
        system = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc/alternatives", "/etc/passwd")
        linker = ("/etc/group", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d")
        rules += [(path, "read") for path in (*system, *linker, *NAME_SERVICE_FILES, *CERTIFICATE_STORES)]
    else:
        rules += _everything_but(hidden)
    for path, view in mounts.views.items():
        if view == "hidden" or path in mounts.sources:
            continue
        inside = [each for each in hidden if is_below(each, path)]
        if inside and (view == "writable" or path == root):
            raise ConfinementError(f"{inside[0]} lies in {path}: hiding it there needs namespaces")
        # A rule is for all below a path: it would open what is hidden there.
        rules += _everything_but(hidden, path) if inside else [(path, "write" if view == "writable" else "read")]
    rules += [(path, "write") for path in private]
    if len(rules) > _MAX_RULES:
        raise ConfinementError(f"more than {_MAX_RULES} neighbours of hidden paths: hiding them needs namespaces")
    return rules


def _everything_but(hidden: Sequence[str], directory: str = "/") -> Iterator[tuple[str, str]]:
    """Yields rules for all in a directory but what is hidden; directories above what is hidden can be listed."""
    yield directory, "list"
    try:
        with os.scandir(directory) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError:
        return
    for name in names:
        path = f"{directory.rstrip('/')}/{name}"
        if path in hidden or os.path.islink(path) or path == "/proc":
            continue
        if any(is_below(each, path) for each in hidden):
            yield from _everything_but(hidden, path)
        else:
            yield path, "read"


class ThreadSource:
    """The shared supervisor, with a restricted thread of its own for one execution."""

    is_restricted = True

    def __init__(self, shared: "SupervisorSource", rules: Mapping[str, object], temporary_directory: str) -> None:
        self.temporary_directory = temporary_directory
        self._shared = shared
        self._rules = rules
        self._confined: SupervisorClient | None = None
        self._execution = 0

    @property
    def client(self) -> SupervisorClient:
        """The current supervisor."""
        return self._shared.client

    async def started(self, execution: int) -> SupervisorClient:
        """Has the thread made, also by a supervisor that took over. Raises ConfinementError."""
        client = await self._shared.started(execution)
        if client is not self._confined:
            if error := await client.confine(execution, self._rules):
                raise ConfinementError(f"the execution's thread cannot be restricted: {error}")
            self._confined, self._execution = client, execution
        return client

    async def terminate(self, children: Sequence[Child]) -> Sequence[KilledProcess]:
        """Ends children and all their descendants, and returns what had to be killed."""
        return await self._shared.terminate(children)

    def close(self) -> None:
        """Has the thread ended."""
        if self._confined and not self._confined.lost.is_set():
            self._confined.release(self._execution)
