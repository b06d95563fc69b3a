"""Files that deepagents offloads from the model's context: long results, and conversations that were summarised."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from deepagents.backends.protocol import BackendProtocol


class ScratchFiles(Protocol):
    """Stores offloaded files by thread. All methods raise OSError."""

    def backend(self, thread_id: str) -> "BackendProtocol":
        """Returns the files of a thread, as deepagents accesses them."""

    async def thread_ids(self) -> Sequence[str]:
        """Lists the threads that have files."""

    async def delete_thread(self, thread_id: str) -> None:
        """Deletes the files of a thread, as far as possible."""
