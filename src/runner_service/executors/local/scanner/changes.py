"""What a tracker finds."""

from typing import NamedTuple

from runner_service.executors.local.scanner.files import Content


class NotTrackedError(Exception):
    """The directory cannot be tracked; the text says why."""


class Change(NamedTuple):
    """A path relative to the root, with what was there at the last scan and what is there now; None for nothing."""

    path: str
    before: Content | None
    after: Content | None


class Place(NamedTuple):
    """What is tracked, and where that is remembered, a directory that can be deleted at any time."""

    root: str
    directory: str
    skips_hidden: bool
    """Whether hidden directories in the root are left out, as caches and settings in a home directory."""


class Limits(NamedTuple):
    """How much a directory may hold: files in all, and files and bytes whose contents have to be stored first."""

    max_files: int = 100_000
    max_new_files: int = 20_000
    max_new_bytes: int = 200 * 1024 * 1024

    def require_files(self, count: int) -> None:
        """Raises NotTrackedError if there are too many files."""
        if count > self.max_files:
            raise NotTrackedError(f"it holds {count:,} files, and up to {self.max_files:,} are tracked")

    def require_new(self, count: int, size: int) -> None:
        """Raises NotTrackedError if too much would have to be stored before anything has changed."""
        if count > self.max_new_files:
            raise NotTrackedError(
                f"{count:,} of its files are in no commit, and up to {self.max_new_files:,} are tracked; "
                "commit them, or list what is generated in .gitignore"
            )
        if size > self.max_new_bytes:
            raise NotTrackedError(
                f"{size >> 20:,} MiB of it are in no commit, and up to {self.max_new_bytes >> 20:,} MiB are tracked; "
                "commit them, or list what is generated in .gitignore"
            )
