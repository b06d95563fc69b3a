"""Changes of files in a sandbox: what a sandbox tells of them, and how files are put back."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

FILE, EXECUTABLE, SYMLINK, REPOSITORY = "file", "executable", "symlink", "repository"
KINDS = frozenset({FILE, EXECUTABLE, SYMLINK, REPOSITORY})
"""The kinds of what is tracked."""

OTHER = "other"
"""The kind of what is at a path and is not tracked, such as a socket."""

MAX_CHANGES = 20_000
"""How many changes are told at once."""

MAX_CONTENT_BYTES = 10 * 1024 * 1024
"""Larger files are listed, without their content."""


class TrackingError(Exception):
    """Changes cannot be tracked, or no longer; the text says why."""


@dataclass(frozen=True, slots=True)
class FileState:
    """What is at a path. `size` is in bytes, `sha256` that of the content, in hexadecimal; empty if it is not known.

    `identity` tells apart what has no known content: versions of a large file, commits of a nested repository.
    """

    kind: str
    size: int
    sha256: str = ""
    identity: str = ""
    shown: str = field(default="", compare=False)
    """The SHA-256 of the content with secrets redacted, if that differs."""

    @property
    def has_content(self) -> bool:
        """Whether its content was read."""
        return bool(self.sha256)


@dataclass(frozen=True, slots=True)
class FoundChange:
    """A change that a sandbox found: the path relative to its root, and what was there before and after.

    `contents` has the content of each state by its SHA-256. `changed_at` is the Unix time of the file's last change, 0
    if unknown. `is_exact`: a file tool made the change itself.
    """

    path: str
    before: FileState | None
    after: FileState | None
    contents: Mapping[str, bytes] = field(default_factory=dict, repr=False)
    changed_at: float = 0.0
    is_exact: bool = False


Handle = Callable[[FoundChange], Awaitable[None]]


class Tracking(Protocol):
    """Finds what changed in the files of a sandbox. One method at a time is called."""

    @property
    def place(self) -> str:
        """The directory, if others may work in it at the same time; else empty."""

    @property
    def is_quiet(self) -> bool:
        """Whether no process of the sandbox runs, so that whatever changes is changed by somebody else."""

    async def begin(self) -> None:
        """Remembers the files as they are now. Raises TrackingError, SandboxError."""

    async def written(self, handle: Handle) -> None:
        """Passes on what file tools have changed since it was last called, in order."""

    async def scan(self, handle: Handle) -> None:
        """Passes on what has changed since `begin` or the last scan. Raises TrackingError, SandboxError."""

    async def end(self) -> None:
        """Forgets what was remembered."""


@dataclass(frozen=True, slots=True)
class Restoration:
    """A file to be put back: what is there now, what is to be there, and its content, unless it is to be removed."""

    path: str
    expected: FileState | None
    wanted: FileState | None
    data: bytes = b""


class Restorer(Protocol):
    """Puts files of a root back."""

    async def states(self, paths: Sequence[str]) -> Sequence[FileState | None]:
        """Returns what is at paths, relative to the root. Raises FileError, SandboxError."""

    async def restore(self, restorations: Sequence[Restoration]) -> None:
        """Puts files back, in order, each if what is there is as expected; stops at the first failure.

        Directories are made, and removed when left empty. A crash leaves each file as it was or as it is to be. Raises
        FileError, SandboxError.
        """

    async def require_space(self, size: int) -> None:
        """Raises FileError if there is no room for so many bytes."""
