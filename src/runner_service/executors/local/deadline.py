"""Time limits of file operations, which other threads can end early."""

import time
from collections.abc import Sequence
from typing import TypeVar

from runner_service.executors.protocol import FileError, Found

FILE_TIMEOUT_SECONDS = 20.0

T = TypeVar("T")


class Deadline:
    """The time limit of one file operation. `stop` ends it early, from any thread."""

    def __init__(self, seconds: float = FILE_TIMEOUT_SECONDS) -> None:
        self._end = time.monotonic() + seconds

    def stop(self) -> None:
        """Expires the deadline."""
        self._end = 0.0

    def has_passed(self) -> bool:
        """Returns whether the operation must end."""
        return time.monotonic() >= self._end

    def require(self, path: str) -> None:
        """Raises FileError if the operation on `path` must end."""
        if self.has_passed():
            raise FileError("timed_out", f"{path}: this took more than {FILE_TIMEOUT_SECONDS:.0f} s; use a command")


class Search(Deadline):
    """A running search: its deadline, and why its result is incomplete, if it is."""

    def __init__(self, seconds: float = FILE_TIMEOUT_SECONDS) -> None:
        super().__init__(seconds)
        self._reason = ""

    def mark_incomplete(self, reason: str) -> None:
        """Records that something was not searched; the first reason is kept."""
        self._reason = self._reason or reason

    def result(self, items: Sequence[T]) -> Found[T]:
        """Returns the items found, marked as truncated if anything was not searched."""
        if self.has_passed():
            self.mark_incomplete("the search took too long; search a smaller directory")
        return Found(items, truncated=True, why=self._reason) if self._reason else Found(items)
