"""The Protocol of the queue of executions; `executions.queue` implements it."""

from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from runner_service.v1 import execution_event_pb2 as event_pb2

Notify = Callable[[event_pb2.Notice], object]


class Slot(Protocol):
    """The place of one execution: in the queue, then among those that run.

    Leaving its context releases it, unless it is parked.
    """

    @property
    def is_admitted(self) -> bool:
        """True once the execution may run."""

    async def admitted(self) -> None:
        """Waits until the execution may run."""

    def park(self) -> None:
        """Makes room for others, but not for those of the same session."""

    def unpark(self) -> "Slot":
        """Returns a slot in the queue that takes the place of this parked one."""

    def release(self) -> None:
        """Leaves the queue or, if admitted, makes room."""

    def __enter__(self) -> None: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class Queue(Protocol):
    """Limits how many executions run at once, and to one of each session."""

    @property
    def running(self) -> int:
        """How many are admitted."""

    @property
    def queued(self) -> int:
        """How many wait."""

    async def require_room(self, session_id: str, tenant: str) -> None:
        """Checks that one more execution may run or wait. Raises QueueFullError, QuotaExceededError."""

    async def join(self, session_id: str, execution_id: str) -> None:
        """Counts an execution that is about to be enqueued, and puts it behind the others of its session.

        Raises QuotaExceededError, LogError.
        """

    def enqueue(self, session_id: str, notify: Notify, execution_id: str = "") -> Slot:
        """Returns a slot; `notify` is given notices of its position. There is always room."""

    def reserve(self, session_id: str, notify: Notify, execution_id: str = "") -> Slot:
        """Returns a parked slot, for an execution that an earlier process has parked."""

    async def correct_forever(self) -> None:
        """Corrects what the storage counts of this process, if it counts anything, until cancelled."""

    def close(self) -> None:
        """Admits no more in this process."""
