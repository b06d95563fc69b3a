"""Checkpoints of the agents' graphs, so that sessions and interrupted executions outlive the process."""

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from langgraph.checkpoint.base import BaseCheckpointSaver


class Checkpoints(Protocol):
    """Stores the checkpoints of threads. All methods, and those of the saver, raise LogError."""

    @property
    def saver(self) -> "BaseCheckpointSaver[Any]":
        """What a graph writes its checkpoints with; only the asynchronous methods are used."""

    async def thread_ids(self) -> Sequence[str]:
        """Lists the threads that have checkpoints."""

    async def delete_thread(self, thread_id: str) -> None:
        """Deletes the checkpoints of a thread."""


OpenCheckpoints = Callable[[], AbstractAsyncContextManager[Checkpoints]]
"""Opens the checkpoints. Raises LogError."""
