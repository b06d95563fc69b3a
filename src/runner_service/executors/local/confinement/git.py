"""Git metadata that a confined execution may not change: a hook or a setting would run later, outside.

`.git` itself becomes a mount point, so that it cannot be moved aside; its hooks and settings are read-only.
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from runner_service.executors.confinement import is_below

PROTECTED = ("config", "config.worktree", "hooks")
"""Names in a git directory that can make git run a program."""

_MAX_DEPTH = 3
_MAX_DIRECTORIES = 2000
_MAX_LINK_BYTES = 4096
_MAX_SETTINGS_BYTES = 1024 * 1024
_SKIPPED = {"node_modules", ".venv", "__pycache__"}


@dataclass(slots=True)
class GitPaths:
    """Paths of git below or beside a root, to bind writable and to bind read-only."""

    writable: list[str] = field(default_factory=list)
    read_only: list[str] = field(default_factory=list)


def git_paths(root: str) -> GitPaths:
    """Finds the repositories of a root: its own, those a few directories below, that of a linked worktree. Blocks."""
    found = GitPaths()
    for entry in _git_entries(root):
        if os.path.islink(entry):
            # An earlier command may have made it: what lies outside is not shown for it.
            if is_below(target := os.path.realpath(entry), root) and os.path.isdir(target):
                _protect(target, found)
        elif os.path.isdir(entry):
            _protect(entry, found)
        else:
            found.read_only.append(entry)
            if entry == f"{root}/.git" and (common := _common_directory_of_worktree(entry)):
                _protect(common, found)
    return found


def _protect(directory: str, found: GitPaths) -> None:
    protected = [f"{directory}/{name}" for name in PROTECTED]
    if any(os.path.islink(path) for path in protected) or not _complete(directory):
        # A bind would follow a link to wherever an earlier command made it point.
        found.read_only.append(directory)
        return
    found.writable.append(directory)
    found.read_only += [path for path in protected if os.path.exists(path)]
    found.read_only += list(_settings_of_submodules(directory))


def _complete(directory: str) -> bool:
    """Makes what is missing, empty, since only what is there can be made read-only; False when that is not possible."""
    settings = _read(f"{directory}/config", _MAX_SETTINGS_BYTES)
    if not settings:
        return False
    try:
        os.makedirs(f"{directory}/hooks", exist_ok=True)
        if b"worktreeconfig" in settings.lower():
            os.close(os.open(f"{directory}/config.worktree", os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o644))
    except OSError:
        return False
    return True


def _settings_of_submodules(directory: str) -> Iterator[str]:
    budget = _MAX_DIRECTORIES
    for current, directories, files in os.walk(f"{directory}/modules"):
        budget -= 1
        if budget <= 0:
            return
        if "HEAD" in files:
            yield from (f"{current}/{name}" for name in PROTECTED if name in files or name in directories)
            directories[:] = [name for name in directories if name == "modules"]


def _git_entries(root: str) -> Iterator[str]:
    """Yields each `.git` of the root and of directories at most `_MAX_DEPTH` below."""
    waiting, budget = [(root, 0)], _MAX_DIRECTORIES
    while waiting and budget:
        directory, depth = waiting.pop()
        budget -= 1
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if entry.name == ".git":
                        yield entry.path
                    elif depth < _MAX_DEPTH and entry.name not in _SKIPPED and entry.is_dir(follow_symlinks=False):
                        waiting.append((entry.path, depth + 1))
        except OSError:
            continue


def _common_directory_of_worktree(link: str) -> str | None:
    """Returns the repository of a linked worktree, if that repository names the worktree as its own.

    The link alone proves nothing: a command may have written it, to have another repository opened.
    """
    directory = _read_line(link).removeprefix("gitdir: ")
    if not directory.startswith("/"):
        return None
    directory = os.path.realpath(directory)
    common = os.path.realpath(os.path.join(directory, _read_line(f"{directory}/commondir") or ".."))
    is_registered = Path(directory).parent == Path(common) / "worktrees"
    points_back = os.path.realpath(_read_line(f"{directory}/gitdir")) == os.path.realpath(link)
    return common if is_registered and points_back and Path(common).name == ".git" else None


def _read_line(path: str) -> str:
    return os.fsdecode(_read(path, _MAX_LINK_BYTES)).strip()


def _read(path: str, limit: int) -> bytes:
    """Reads the beginning of a regular file; nothing of anything else, such as a pipe that nobody writes to."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return b""
    with open(descriptor, "rb") as file:
        return file.read(limit) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
