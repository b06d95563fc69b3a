"""The queue of the executions of one process: a limit on how many run, and one execution of a session at a time.

Tenants take turns, by their weights, and so do the sessions of a tenant, however much each of them asks for. Only the
first execution of a session stands in the queue; when it is done, the next one joins the end of its tenant's. An
execution without a session is a session of its own. A tenant that has as many running as it may stands aside.
"""

import time
from collections import defaultdict, deque

from runner_service.errors import QueueFullError, QuotaExceededError
from runner_service.executions.slot import BaseSlot
from runner_service.executions.tenant_limits import Tenants
from runner_service.executions.tenant_queue import TenantQueue
from runner_service.identity import DEFAULT_TENANT, bare_id, tenant_of
from runner_service.storage.queue import Notify, Queueable
from runner_service.storage.shared_queue import Entrant
from runner_service.telemetry import metrics
from runner_service.v1 import execution_event_pb2 as event_pb2

RETRY_DELAY_SECONDS = 5.0


class Slot(BaseSlot):
    """The place of one execution: in the queue, then among those that run."""

    def __init__(self, queue: "ExecutionQueue", session_id: str, notify: Notify, tenant: str) -> None:
        super().__init__()
        self.session_id = session_id
        self.tenant = tenant
        self.notify = notify
        self._queue = queue
        self._queued_at = time.monotonic()

    @property
    def outlives_process(self) -> bool:
        """False: there is no other process."""
        return False

    async def admitted(self) -> None:
        """Waits until the execution may run."""
        await self._admitted.wait()
        metrics.queue_wait_ended(time.monotonic() - self._queued_at)

    def park(self) -> None:
        """Makes room for others, but not for those of the same session."""
        self._queue.park(self)

    def unpark(self) -> "Slot":
        """Returns a slot in the queue that takes the place of this parked one."""
        return self._queue.unpark(self)

    def release(self) -> None:
        """Leaves the queue or, if admitted, makes room."""
        self._queue.release(self)


class ExecutionQueue:
    """Implements `Queue` in memory: at most `max_running` are admitted, at most `max_queued` others wait."""

    def __init__(self, *, max_running: int, max_queued: int, tenants: Tenants | None = None) -> None:
        self._max_running = max_running
        self._max_queued = max_queued
        self._tenants = tenants or Tenants()
        self._queues: defaultdict[str, TenantQueue[Slot]] = defaultdict(TenantQueue)
        self._turns_now = 0.0
        """The turns of the tenant that was admitted last."""
        self._session_waiters: dict[str, deque[Slot]] = {}
        """By session that has an execution queued or running: those that wait behind it, in order of arrival."""
        self._is_closed = False
        self.running = 0
        """How many are admitted."""
        self.queued = 0
        """How many wait, those behind another one of their session included."""

    async def require_room(self, session_id: str, tenant: str = DEFAULT_TENANT) -> None:
        """Checks that one more execution may run or wait.

        Raises:
            QueueFullError: it would have to wait, and `max_queued` wait already.
            QuotaExceededError: it would have to wait, and as many of its tenant wait as may.
        """
        own, limits = self._queues[tenant], self._tenants.limits_of(tenant)
        is_free = self.running < self._max_running and own.has_room(limits)
        if is_free and session_id not in self._session_waiters:
            return
        if limits.queued is not None and own.queued >= limits.queued:
            metrics.execution_refused()
            raise QuotaExceededError(tenant, "queued", limits.queued, retry_delay=RETRY_DELAY_SECONDS)
        if self.queued >= self._max_queued:
            metrics.execution_refused()
            raise QueueFullError(
                f"{own.running} executions are running and {own.queued} are queued, which is all that "
                "MAX_CONCURRENT_EXECUTIONS and MAX_QUEUED_EXECUTIONS allow; call again later",
                retry_delay=RETRY_DELAY_SECONDS,
            )

    async def join(self, entrant: Entrant) -> None:
        """Implements `Queue`: `place` does it, at once."""

    def place(self, execution: Queueable) -> Slot:
        """Implements `Queue`."""
        return self.enqueue(execution.session, execution.notify, execution.id)

    async def withdraw(self, execution_id: str) -> int | None:
        """Implements `Queue`: what is queued here is this process's."""
        del execution_id
        return 0

    def forget(self, execution_id: str) -> None:
        """Implements `Queue`: what has no slot is not known."""

    def enqueue(self, session_id: str, notify: Notify, execution_id: str = "") -> Slot:
        """Returns a slot, admitted at once if possible; else `notify` is given notices of its position.

        There is always room: call `require_room` first where that matters.
        """
        slot = Slot(self, session_id, notify, tenant_of(execution_id))
        self._count_queued(slot, 1)
        if session_id in self._session_waiters:
            self._session_waiters[session_id].append(slot)
            slot.notify(notice("SESSION_BUSY", f"waits for another execution of session {bare_id(session_id)} to end"))
            return slot
        if session_id:
            self._session_waiters[session_id] = deque()
        self._append_to_queue(slot)
        return slot

    def park(self, slot: Slot) -> None:
        """Makes room for others, but not for those of the same session."""
        slot.is_parked = True
        self._count_running(slot, -1)
        self._admit_next()

    def reserve(self, execution: Queueable) -> Slot:
        """Implements `Queue`."""
        slot = Slot(self, execution.session, execution.notify, tenant_of(execution.id))
        slot.is_parked = True
        if execution.session:
            self._session_waiters.setdefault(execution.session, deque())
        return slot

    def unpark(self, parked: Slot) -> Slot:
        """Returns a slot in the queue that takes the place of a parked one."""
        slot = Slot(self, parked.session_id, parked.notify, parked.tenant)
        self._count_queued(slot, 1)
        self._append_to_queue(slot)
        return slot

    def release(self, slot: Slot) -> None:
        """Takes a slot back: one that waits leaves the queue, one that is admitted makes room."""
        if slot.is_parked:
            self._enqueue_next_of_session(slot.session_id)
            return
        waiters = self._session_waiters.get(slot.session_id, ())
        if slot in waiters:
            self._session_waiters[slot.session_id].remove(slot)
            self._count_queued(slot, -1)
            return
        if slot.is_admitted:
            self._count_running(slot, -1)
            self._admit_next()
        else:
            self._leave_queue(slot)
        self._enqueue_next_of_session(slot.session_id)

    def close(self) -> None:
        """Admits no more: whoever waits does so until it is released."""
        self._is_closed = True

    def _enqueue_next_of_session(self, session_id: str) -> None:
        waiters = self._session_waiters.get(session_id)
        if waiters:
            self._append_to_queue(waiters.popleft())
        else:
            self._session_waiters.pop(session_id, None)

    def _append_to_queue(self, slot: Slot) -> None:
        own = self._queues[slot.tenant]
        own.append(slot, self._turns_now)
        self._admit_next()
        if not slot.is_admitted and not self._is_closed:
            own.notify_position(len(own.waiting))

    def _admit_next(self) -> None:
        while self.running < self._max_running and not self._is_closed and (tenant := self._next_tenant()) is not None:
            own = self._queues[tenant]
            slot = own.waiting[0]
            self._turns_now = own.turns
            own.turns += 1 / self._tenants.limits_of(tenant).weight
            self._count_running(slot, 1)
            slot.admit()
            self._leave_queue(slot)

    def _next_tenant(self) -> str | None:
        """Returns the tenant with the fewest turns of those that wait and may have one more running."""
        able = [name for name, own in self._queues.items() if own.can_run(self._tenants.limits_of(name))]
        return min(able, key=lambda name: self._queues[name].turns, default=None)

    def _leave_queue(self, slot: Slot) -> None:
        self._count_queued(slot, -1)
        self._queues[slot.tenant].remove(slot, is_silent=self._is_closed)

    def _count_running(self, slot: Slot, change: int) -> None:
        self.running += change
        self._queues[slot.tenant].running += change

    def _count_queued(self, slot: Slot, change: int) -> None:
        self.queued += change
        self._queues[slot.tenant].queued += change


def notice(code: str, text: str) -> event_pb2.Notice:
    """Returns a notice for those who wait."""
    return event_pb2.Notice(level=event_pb2.Notice.LEVEL_INFO, code=code, text=text)
