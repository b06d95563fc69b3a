"""The place of an execution in the queue of all replicas."""

from typing import Protocol

from runner_service.executions.slot import BaseSlot
from runner_service.storage.queue import Queueable
from runner_service.storage.shared_queue import Entrant


class _Queue(Protocol):
    async def offer(self, slot: "SharedSlot") -> None: ...

    def place(self, execution: Queueable, *, moves_to_end: bool = False) -> "SharedSlot": ...

    def park(self, slot: "SharedSlot") -> None: ...

    def release(self, slot: "SharedSlot") -> None: ...


class SharedSlot(BaseSlot):
    """The place of one execution: in the queue of all replicas, then among those that this one runs."""

    def __init__(self, queue: _Queue, execution: Queueable, *, moves_to_end: bool) -> None:
        super().__init__()
        self.execution = execution
        self.moves_to_end = moves_to_end
        self.is_offered = False
        """True once any replica may take it."""
        self._queue = queue

    @property
    def entrant(self) -> Entrant:
        """What the queue knows of it."""
        execution = self.execution
        return Entrant(execution.id, execution.session, execution.owner_token, not execution.is_portable)

    @property
    def outlives_process(self) -> bool:
        """True while it waits where another replica can take it."""
        return self.is_offered and not self.is_admitted and self.execution.is_portable

    async def admitted(self) -> None:
        """Waits until the execution may run here. Cancelled if another replica takes it."""
        if not self.is_admitted:
            await self.execution.flush()  # whoever takes it reads its record
            await self._queue.offer(self)
            await self._admitted.wait()

    def park(self) -> None:
        """Makes room for others, but not for those of the same session."""
        self.is_parked = True
        self._queue.park(self)

    def unpark(self) -> "SharedSlot":
        """Returns a slot in the queue that takes the place of this parked one."""
        return self._queue.place(self.execution, moves_to_end=True)

    def release(self) -> None:
        """Leaves the queue or, if admitted, makes room."""
        self._queue.release(self)
