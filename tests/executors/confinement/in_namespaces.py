"""Tries in a user namespace of its own, with all capabilities there, what a command alone may not.

Standard library only.

Usage: python in_namespaces.py WHAT ARGUMENT... Prints ESCAPED when it got somewhere. As a program of its own, since
capabilities in a namespace are lost when another program is started.
"""

import ctypes
import fcntl
import os
import platform
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

NEW_USER, NEW_MOUNTS, NEW_GROUPS, NEW_IPC, NEW_NETWORK, NEW_PIDS = (
    0x10000000,
    0x00020000,
    0x02000000,
    0x08000000,
    0x40000000,
    0x20000000,
)
BIND, REMOUNT, RECURSIVE, PRIVATE, DETACH = 0x1000, 0x20, 0x4000, 0x40000, 2
OPEN_TREE, OPEN_TREE_CLONE = 428, 1
GET_USER_NAMESPACE, GET_PARENT = 0xB701, 0xB702

libc = ctypes.CDLL(None, use_errno=True)


def enter(flags: int = 0) -> None:
    """Makes the namespaces, and has this user be root in them where that is allowed."""
    user, group = os.getuid(), os.getgid()
    if libc.unshare(NEW_USER | NEW_MOUNTS | flags):
        raise SystemExit("no namespaces")
    with suppress(OSError):
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    mount("none", "/", flags=PRIVATE | RECURSIVE)


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> bool:
    result = libc.mount(source.encode(), target.encode(), kind.encode() or None, flags, options.encode() or None)
    return int(result) == 0


def made(name: str) -> str:
    """Returns a directory to mount something at."""
    directory = Path(name).resolve()
    directory.mkdir(exist_ok=True)
    return str(directory)


def appendable(path: str) -> bool:
    with suppress(OSError), Path(path).open("a"):
        return True
    return False


def holds_secret(path: str) -> bool:
    with suppress(OSError):
        return "secret" in Path(path).read_text()
    return False


def remount(outside: str) -> bool:
    enter()
    mount("none", "/", flags=REMOUNT | BIND)
    return appendable(f"{outside}/new")


def unmount(state: str) -> bool:
    enter()
    libc.umount2(state.encode(), DETACH)
    return holds_secret(f"{state}/secret")


def bind(state: str) -> bool:
    enter()
    directory = made("bound")
    mount("/", directory, flags=BIND) or mount("/", directory, flags=BIND | RECURSIVE)
    return holds_secret(f"{directory}{state}/secret")


def clone_tree(state: str) -> bool:
    enter()
    tree = libc.syscall(OPEN_TREE, -100, b"/", OPEN_TREE_CLONE)
    return tree >= 0 and holds_secret(f"/proc/self/fd/{tree}{state}/secret")


def overlay(state: str) -> bool:
    """Lays a file system over /, which shows what lies below mounts."""
    upper, work, directory = made("upper"), made("work"), made("merged")
    enter()
    mount("none", directory, "overlay", options=f"lowerdir=/,upperdir={upper},workdir={work}")
    return holds_secret(f"{directory}{state}/secret")


def control_groups(*_: str) -> bool:
    """Mounts control groups, of either version, to write to those of the service."""
    enter(NEW_GROUPS)
    for number, (kind, options) in enumerate((("cgroup2", ""), ("cgroup", "freezer"), ("cgroup", "memory"))):
        directory = made(f"groups{number}")
        if mount("none", directory, kind, options=options) and appendable(f"{directory}/cgroup.procs"):
            return True
    return False


def devices(*_: str) -> bool:
    """Mounts another /sys, which would be writable to root."""
    enter(NEW_NETWORK)
    directory = made("sys")
    return mount("none", directory, "sysfs") and appendable(f"{directory}/kernel/mm/transparent_hugepage/enabled")


def processes(*_: str) -> bool:
    """Mounts another /proc, whose settings would be writable to root."""
    enter(NEW_PIDS | NEW_IPC)
    if child := os.fork():
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    directory = made("proc")
    got_out = mount("none", directory, "proc") and appendable(f"{directory}/sys/kernel/core_pattern")
    os._exit(0 if got_out else 1)


def owner_of_mounts(*_: str) -> bool:
    """Asks for the user namespace that owns the mounts, or the one above, to join it."""
    for name, request in (("mnt", GET_USER_NAMESPACE), ("user", GET_PARENT), ("pid", GET_USER_NAMESPACE)):
        with suppress(OSError), Path(f"/proc/self/ns/{name}").open() as own:
            joined = fcntl.ioctl(own, request)
            if libc.setns(joined, 0) == 0:
                return True
    return False


WAYS: dict[str, Callable[..., bool]] = {
    each.__name__: each
    for each in (remount, unmount, bind, clone_tree, overlay, control_groups, devices, processes, owner_of_mounts)
}

if __name__ == "__main__":
    if platform.system() == "Linux" and WAYS[sys.argv[1]](*sys.argv[2:]):
        print("ESCAPED")
