"""Confinement of the file tools, which run in the service: the same levels as commands have in a cell."""

import os
from dataclasses import dataclass

from runner_service.executors.confinement import Confinement, is_below
from runner_service.executors.local.confinement.git import PROTECTED
from runner_service.executors.protocol import FileError

_GIT = ".git"
_REDIRECTS = ("commondir", "gitdir")
"""Files in a git directory that would make git read other settings."""


@dataclass(frozen=True, slots=True)
class FileRules:
    """What file tools may not do. Paths are real and absolute; `repositories` are git directories below the root.

    `service_code` is what the service itself runs.
    """

    is_read_only: bool = False
    protects_git: bool = False
    hidden: tuple[str, ...] = ()
    repositories: tuple[str, ...] = ()
    service_code: tuple[str, ...] = ()

    def is_hidden(self, path: str) -> bool:
        """Returns whether nothing may be known of what is at or below `path`."""
        return any(is_below(path, each) for each in self.hidden)

    def require_readable(self, path: str) -> None:
        """Raises FileError if `path` is hidden."""
        if self.hidden and self.is_hidden(path):
            raise FileError("permission_denied", f"{path}: hidden from this execution by its confinement")

    def require_writable(self, path: str) -> None:
        """Raises FileError if what is at `path` may not be made, changed or removed."""
        if self.is_read_only:
            raise FileError("permission_denied", f"{path}: the files of this execution are read-only (confinement)")
        if any(is_below(each, path) for each in (*self.hidden, *self.repositories)):
            raise FileError("permission_denied", f"{path}: holds what this execution's confinement protects")
        if any(is_below(path, each) or is_below(each, path) for each in self.service_code):
            raise FileError("permission_denied", f"{path}: read-only (confinement), since the service itself runs it")
        if self.protects_git and _is_git_setting(path):
            raise FileError(
                "permission_denied",
                f"{path}: hooks and settings of git are read-only (confinement), since git would act on them later",
            )


def file_rules(
    confinement: Confinement, *, root: str, hidden: list[str], repositories: list[str], service_code: list[str]
) -> FileRules:
    """Returns the rules of a level. Blocks on the file system."""
    asked = [os.path.realpath(path) for path in confinement.hidden_paths]
    below = [path for path in (*hidden, *asked) if is_below(path, root) and path != root]
    return FileRules(
        is_read_only=confinement.files == "read_only",
        protects_git=True,
        hidden=tuple(below),
        repositories=tuple(path for path in repositories if is_below(path, root)),
        service_code=tuple(service_code),
    )


def _is_git_setting(path: str) -> bool:
    names = path.split("/")
    if _GIT not in names:
        return False
    below = names[names.index(_GIT) + 1 :]
    if not below or below[0] in (*PROTECTED, *_REDIRECTS):
        return True
    return below[0] in {"modules", "worktrees"} and any(name in (*PROTECTED, *_REDIRECTS) for name in below[1:])
