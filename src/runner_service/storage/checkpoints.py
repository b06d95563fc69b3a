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

    async def enter(self, thread_id: str, execution_id: str) -> None:
        """Makes the owner of an execution the only writer of a thread that executions share, from the current task on.

        Executions of a session do not run in the order in which they were claimed, so the tokens of their claims cannot
        tell who is the later one. Fails when the current task's claim is no longer the last one of the execution.
        """

    async def thread_ids(self) -> Sequence[str]:
        """Lists the threads that have checkpoints."""

    async def delete_thread(self, thread_id: str) -> None:
        """Deletes the checkpoints of a thread."""


OpenCheckpoints = Callable[[], AbstractAsyncContextManager[Checkpoints]]
"""Opens the checkpoints. Raises LogError."""
