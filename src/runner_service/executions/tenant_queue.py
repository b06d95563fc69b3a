"""The waiting executions of one tenant, and its turns among the tenants (stride scheduling)."""

from typing import Generic, Protocol, TypeVar

from runner_service.executions.tenant_limits import TenantLimits
from runner_service.v1 import execution_event_pb2 as event_pb2


class Waiting(Protocol):
    """Something in the queue that is told its position."""

    def notify(self, notice: event_pb2.Notice) -> object:
        """Takes a notice."""


T = TypeVar("T", bound=Waiting)


class TenantQueue(Generic[T]):
    """What one tenant has in the queue, in order. The tenant with the least `turns` is next."""

    def __init__(self) -> None:
        self.waiting: list[T] = []
        self.running = 0
        """How many of its executions are admitted."""
        self.queued = 0
        """How many wait, those behind another one of their session included."""
        self.turns = 0.0
        """How many turns it has had, each divided by its weight."""

    def can_run(self, limits: TenantLimits) -> bool:
        """Tells whether one that waits may be admitted."""
        return bool(self.waiting) and self.has_room(limits)

    def has_room(self, limits: TenantLimits) -> bool:
        """Tells whether it may have one more running."""
        return limits.running is None or self.running < limits.running

    def append(self, item: T, turns_now: float) -> None:
        """Adds to the end. A tenant that had nothing waiting has saved up no turns."""
        if not self.waiting:
            self.turns = max(self.turns, turns_now)
        self.waiting.append(item)

    def remove(self, item: T, *, is_silent: bool) -> None:
        """Moves up those behind. They are notified when their position is a power of two: more would be noise."""
        index = self.waiting.index(item)
        del self.waiting[index]
        position = len(self.waiting) + 1 if is_silent else 1
        while position <= len(self.waiting):
            if position > index:
                self.notify_position(position)
            position *= 2

    def notify_position(self, position: int) -> None:
        """Tells one its position among those of its tenant."""
        text = f"waits for its turn, at position {position} of the queue"
        level = event_pb2.Notice.LEVEL_INFO
        self.waiting[position - 1].notify(event_pb2.Notice(level=level, code="QUEUED", text=text))
