"""The file system of a cell, as arguments of bubblewrap: each path in one way, the deeper path over the higher."""

import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from runner_service.executors.confinement import Confinement, is_below
from runner_service.executors.local.confinement.git import GitPaths
from runner_service.executors.local.confinement.hidden import (
    CERTIFICATE_STORES,
    NAME_SERVICE_FILES,
    name_service_targets,
)
from runner_service.executors.local.supervisor_process import PACKAGES
from runner_service.executors.protocol import ConfinementError

View = Literal["hidden", "read_only", "writable"]

_SHARED_MEMORY_BYTES = 256 * 1024 * 1024
_KERNEL_SETTINGS = ("/proc/sys", "/proc/sysrq-trigger", "/proc/irq", "/proc/bus")
_STRICT_SYSTEM = (
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc/alternatives",
    "/etc/ld.so.cache",
    "/etc/ld.so.conf",
    "/etc/ld.so.conf.d",
    "/etc/passwd",
    "/etc/group",
    *NAME_SERVICE_FILES,
    *CERTIFICATE_STORES,
)


@dataclass(frozen=True, slots=True)
class PrivateDirectories:
    """Directories of one session, outside the cell: what its commands see as /tmp, and as their cache."""

    temporary: str
    cache: str


@dataclass(slots=True)
class Mounts:
    """What a cell shows. `sources` holds what lies elsewhere outside than it is seen inside."""

    is_strict: bool = False
    views: dict[str, View] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)

    def show(self, paths: Iterable[str], view: View) -> None:
        """Shows paths, which are real ones, in one way; what is hidden stays hidden."""
        for path in paths:
            if self.views.get(path) != "hidden":
                self.views[path] = view

    def arguments(self) -> list[str]:
        """Returns bubblewrap's arguments. Blocks on the file system."""
        self._make_mount_points()
        return [*self._base(), *self._views(), *_processes(), *self._seal()]

    def shown(self) -> list[tuple[str, str]]:
        """Returns what is bound, by where it is seen, and where it is outside."""
        return [(path, self.sources.get(path, path)) for path, view in self.views.items() if view != "hidden"]

    def _make_mount_points(self) -> None:
        """Makes the directories above what is seen below a private one, where a command may have left links."""
        for seen, source in self.sources.items():
            for path in self.views:
                if path != seen and is_below(path, seen):
                    _make_directories(source, path.removeprefix(f"{seen}/").split("/")[:-1])

    def _base(self) -> Iterator[str]:
        if self.is_strict:
            for path in _STRICT_SYSTEM:
                yield from _as_outside(path)
        else:
            yield from ("--ro-bind", "/", "/")
        yield from ("--dev", "/dev", "--size", str(_SHARED_MEMORY_BYTES), "--tmpfs", "/dev/shm")  # noqa: S108  # of the cell

    def _views(self) -> Iterator[str]:
        for path in sorted(self.views, key=_depth):
            source = self.sources.get(path, path)
            match self.views[path]:
                case "hidden" if os.path.isdir(path):
                    yield from ("--perms", "0555", "--tmpfs", path)
                case "hidden":
                    yield from ("--ro-bind", "/dev/null", path)
                case "read_only":
                    yield from ("--ro-bind", source, path)
                case "writable":
                    yield from ("--bind", source, path)

    def _seal(self) -> Iterator[str]:
        """Makes read-only what only holds mount points."""
        for path, view in self.views.items():
            if view == "hidden" and os.path.isdir(path):
                yield from ("--remount-ro", path)
        yield from ("--remount-ro", "/dev")
        if self.is_strict:
            yield from ("--remount-ro", "/")


def plan(
    confinement: Confinement,
    *,
    root: str,
    scope_root: str,
    home: str,
    hidden: Iterable[str],
    secrets: Sequence[str],
    private: PrivateDirectories,
    home_cache: str,
    git: GitPaths,
) -> Mounts:
    """Plans the file system of a cell.

    `root` is the sandbox's directory, `scope_root` that of all sessions, `home` that of the user; all real. `secrets`
    are of the service and never shown. `home_cache` is where the private cache is seen. Blocks on the file system.

    Raises:
        ConfinementError: a path is to be shown that lies in one of `secrets`, or leads through a symlink.
    """
    is_writable = confinement.files != "read_only"
    mounts = Mounts(is_strict=confinement.files == "strict")
    mounts.show(("/tmp",), "writable")  # noqa: S108  # of the cell
    mounts.sources["/tmp"] = private.temporary  # noqa: S108  # as above
    if home_cache:
        mounts.show((home_cache,), "writable")
        mounts.sources[home_cache] = private.cache
    mounts.show(hidden, "hidden")
    mounts.show([os.path.realpath(path) for path in confinement.hidden_paths if os.path.lexists(path)], "hidden")
    if scope_root != root:
        mounts.show((scope_root,), "hidden")
    if not mounts.is_strict and home != "/" and os.path.isdir(home):
        mounts.show((home,), "read_only")
    mounts.views[root] = "writable" if is_writable else "read_only"
    mounts.sources.pop(root, None)
    _show_needed(mounts)
    _refuse_secrets((*confinement.readable_paths, *confinement.writable_paths), secrets)
    _show_listed(mounts, confinement.readable_paths, "read_only")
    if is_writable:
        code = service_code_below(root)
        mounts.show(code, "read_only")
        _show_listed(mounts, confinement.writable_paths, "writable")
        _pin_ancestors(mounts, root, code)
        mounts.show(git.writable, "writable")
        mounts.show(git.read_only, "read_only")
    return mounts


def service_code_below(root: str) -> list[str]:
    """Returns the service's own code and environment, if they lie in a sandbox's directory: its next start runs them.

    Blocks.
    """
    code = [os.path.realpath(path) for path in (sys.prefix, PACKAGES / "runner_service")]
    return [path for path in code if path != root and is_below(path, root) and os.path.isdir(path)]


def visible_cache(confinement: Confinement, home: str) -> str:
    """Returns where a cell shows its private cache: at ~/.cache, if it is there to be covered, else nowhere. Blocks."""
    cache = os.path.realpath(f"{home}/.cache")
    if confinement.files == "read_only" or not (confinement.files == "strict" or os.path.isdir(cache)):
        return ""
    return cache


def thread_environment(confinement: Confinement, private: PrivateDirectories) -> Mapping[str, str]:
    """Returns the variables for a restricted thread, where private directories are seen where they are."""
    # What may not be read is no reason for a program to go on without it, as what is not there would be.
    home = {"HOME": private.temporary, "GIT_CONFIG_NOSYSTEM": "1"} if confinement.files == "strict" else {}
    return {**environment_for(private.cache, private.temporary), **home}


def environment_for(home_cache: str, temporary: str = "/tmp") -> Mapping[str, str]:  # noqa: S108  # of the cell
    """Returns the variables that point tools to the private cache."""
    cache = home_cache or "/tmp/.cache"  # noqa: S108  # of the cell
    return {
        "TMPDIR": temporary,
        "XDG_CACHE_HOME": cache,
        "PIP_CACHE_DIR": f"{cache}/pip",
        "UV_CACHE_DIR": f"{cache}/uv",
        "npm_config_cache": f"{cache}/npm",
        "CARGO_HOME": f"{cache}/cargo",
        "GOPATH": f"{cache}/go",
        "GOCACHE": f"{cache}/go-build",
    }


def _show_needed(mounts: Mounts) -> None:
    """Shows what the supervisor is made of, and what name resolution needs, wherever they lie."""
    mounts.show(name_service_targets(), "read_only")
    interpreter = os.path.realpath(sys.base_prefix)
    package = os.path.realpath(PACKAGES / "runner_service")
    mounts.show([each for each in (interpreter, package) if not is_below(each, "/usr")], "read_only")


def _show_listed(mounts: Mounts, paths: Iterable[str], view: View) -> None:
    """Shows what an operator or a request names; no link may lead elsewhere, since a command may have made it."""
    for path in paths:
        if (real := os.path.realpath(path)) != path:
            raise ConfinementError(f"confinement: {path} leads through a symlink to {real}; name that, if it is meant")
    mounts.show([path for path in paths if os.path.lexists(path)], view)


def _make_directories(base: str, names: Sequence[str]) -> None:
    for name in names:
        base = f"{base}/{name}"
        if os.path.islink(base) or not os.path.isdir(base):
            if os.path.lexists(base):
                os.unlink(base)
            os.mkdir(base, 0o755)


def _refuse_secrets(paths: Iterable[str], secrets: Sequence[str]) -> None:
    for path in map(os.path.realpath, paths):
        if any(is_below(path, secret) for secret in secrets):
            raise ConfinementError(f"confinement: {path} belongs to the service and cannot be shown")


def _pin_ancestors(mounts: Mounts, root: str, code: Sequence[str]) -> None:
    """Makes mount points of the directories between the root and what is hidden or of the service, to stay in place."""
    hidden = [path for path, view in mounts.views.items() if view == "hidden" and is_below(path, root)]
    for path in (*hidden, *code):
        for ancestor in Path(path).parents:
            if not is_below(str(ancestor), root) or str(ancestor) == root:
                break
            mounts.views.setdefault(str(ancestor), "writable")


def _processes() -> Iterator[str]:
    """Shows the cell's own processes; bubblewrap leaves the kernel's settings writable to root."""
    yield from ("--proc", "/proc")
    for path in _KERNEL_SETTINGS:
        yield from ("--ro-bind-try", path, path)


def _as_outside(path: str) -> Iterator[str]:
    if os.path.islink(path):
        yield from ("--symlink", os.readlink(path), path)
    else:
        yield from ("--ro-bind-try", path, path)


def _depth(path: str) -> tuple[int, str]:
    return path.count("/") if path != "/" else 0, path
