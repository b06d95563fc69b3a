"""The Protocol of the queue of executions; `executions.queue` implements it."""

from collections.abc import Callable
from types import TracebackType
from typing import Protocol

from runner_service.storage.shared_queue import Entrant
from runner_service.v1 import execution_event_pb2 as event_pb2

Notify = Callable[[event_pb2.Notice], object]


class Queueable(Protocol):
    """An execution, as a queue knows it."""

    @property
    def id(self) -> str:
        """Its key."""

    @property
    def session(self) -> str:
        """The key of its session; empty for none."""

    @property
    def owner_token(self) -> int:
        """That of the claim under which this process has it."""

    @property
    def is_portable(self) -> bool:
        """Whether another process can run it: it can read the whole request."""

    @property
    def is_final(self) -> bool:
        """Whether it has ended."""

    @property
    def is_passed_on(self) -> bool:
        """Whether this process has left it to another one."""

    def notify(self, notice: event_pb2.Notice) -> object:
        """Tells its watchers."""

    def pass_on(self) -> None:
        """Leaves it to another process, which has taken it; its watchers follow it there."""

    async def flush(self) -> None:
        """Waits until the log has what is known of it."""


class Slot(Protocol):
    """The place of one execution: in the queue, then among those that run.

    Leaving its context releases it, unless it is parked.
    """

    @property
    def is_admitted(self) -> bool:
        """True once the execution may run."""

    @property
    def outlives_process(self) -> bool:
        """True while it waits where another process can take it."""

    async def admitted(self) -> None:
        """Waits until the execution may run. Cancelled if another process takes it."""

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

    async def join(self, entrant: Entrant) -> None:
        """Counts an execution that is about to be placed; `forget` it if it is not.

        Raises QueueFullError, QuotaExceededError, LogError.
        """

    def place(self, execution: Queueable) -> Slot:
        """Returns a slot; the execution is given notices of its position. There is always room."""

    def reserve(self, execution: Queueable) -> Slot:
        """Returns a parked slot, for an execution that an earlier process has parked."""

    async def withdraw(self, execution_id: str) -> int | None:
        """Takes an execution that waits out of the queue of all processes, for this one to end it.

        Returns the token under which it was queued; None if another process has taken it, or none has queued it.
        Raises LogError.
        """

    def forget(self, execution_id: str) -> None:
        """Removes an execution that joined and was not placed, or that has ended without a slot."""

    def close(self) -> None:
        """Admits no more in this process."""
