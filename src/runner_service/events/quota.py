"""How much an execution may store: its events, the output of its commands, and their private directories."""

from math import inf
from typing import TYPE_CHECKING

from runner_service.errors import DiskLimitEnd, ExecutionEnd

if TYPE_CHECKING:
    from collections.abc import Callable

_RESERVE_BYTES = 1024 * 1024
"""What output leaves, of the second half of the quota, to the results and events that follow it."""


class DiskQuota:
    """Counts what an execution stores. Without `set_limit` there is no limit."""

    def __init__(self) -> None:
        self.stored = 0
        """Bytes of events and output."""
        self._private = 0
        self.on_exceeded: Callable[[ExecutionEnd], None] = lambda _: None
        self._limit = 0
        self._room = inf
        """How much of the limit private directories leave."""
        self._is_exceeded = False

    def set_limit(self, limit: int) -> None:
        """Sets the limit in bytes; 0 is none."""
        self._limit = limit
        self._room = limit - self._private if limit else inf

    @property
    def used(self) -> int:
        """Bytes of events and output, and by how much private directories have grown."""
        return self.stored + self._private

    def restore(self, stored: int) -> None:
        """Counts what earlier processes stored, beside which the little that this one has stored does not matter."""
        self.stored = max(self.stored, stored)

    def output_room(self) -> int | None:
        """Returns how many bytes of output may still be stored; None for any number."""
        if not self._limit:
            return None
        return max(0, max(self._limit // 2, self._limit - _RESERVE_BYTES) - self.used)

    def count(self, size: int) -> None:
        """Counts what is stored. Once that is over the limit, the execution is ended; its end is still stored."""
        self.stored += size
        if self.stored > self._room:
            self._exceed("the events and output of this execution")

    def set_private(self, size: int) -> None:
        """Notes by how much the private directories have grown; ends the execution as `count` does."""
        self._private = size
        self.set_limit(self._limit)
        if self.stored > self._room:
            self._exceed("what its commands keep in /tmp and caches, with its events and output")

    def _exceed(self, what: str) -> None:
        if not self._is_exceeded:
            self._is_exceeded = True
            self.on_exceeded(
                DiskLimitEnd(
                    f"EXECUTION_MAX_BYTES = {self._limit} was reached by {what}: "
                    "raise it, or give the agent a smaller task"
                )
            )
