"""What the places of executions in every queue have in common."""

import asyncio
from types import TracebackType


class BaseSlot:
    """The place of one execution. Leaving its context releases it, unless it is parked."""

    def __init__(self) -> None:
        self._admitted = asyncio.Event()
        self.is_parked = False
        """True while its execution waits for approvals: it does not run, but holds back the others of its session."""

    @property
    def is_admitted(self) -> bool:
        """True once the execution may run here."""
        return self._admitted.is_set()

    def admit(self) -> None:
        """Called by the queue: the execution may run here."""
        self._admitted.set()

    def release(self) -> None:
        """Leaves the queue or, if admitted, makes room."""
        raise NotImplementedError

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not self.is_parked:
            self.release()
