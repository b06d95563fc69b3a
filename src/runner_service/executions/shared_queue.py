"""The queue of one replica of several: executions wait in one queue of all, and replicas take what they have room for.

One that was accepted here may be taken by another replica: it is passed on, and watchers here follow it there.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import nullcontext, suppress
from typing import Any

from runner_service.errors import QueueFullError, QuotaExceededError
from runner_service.executions.queue import RETRY_DELAY_SECONDS, notice
from runner_service.executions.shared_slot import SharedSlot
from runner_service.executions.tenant_limits import Tenants
from runner_service.identity import bare_id, tenant_of
from runner_service.storage.event_log import LogError
from runner_service.storage.queue import Queueable
from runner_service.storage.shared_queue import (
    Entrant,
    Outcome,
    QueueNews,
    QueueReply,
    QueueStore,
    QuotaOfTenant,
    Taken,
)
from runner_service.telemetry import metrics
from runner_service.telemetry.failure_log import FailureLog

logger = logging.getLogger(__name__)

_POLL_INTERVAL_SECONDS = 1.0
_CORRECTION_INTERVAL_SECONDS = 10.0
_RETRY_INTERVAL_SECONDS = 0.25


StartTaken = Callable[[Taken], Awaitable[None]]
"""Starts an execution that another replica has accepted, or leaves it to others. Raises LogError: call it again."""


class SharedQueue:
    """Implements `Queue`. Belongs to the event loop; `run` it."""

    def __init__(
        self,
        store: QueueStore,
        tenants: Tenants,
        *,
        max_running: int,
        max_queued: int,
        takes_work: Callable[[], bool] = lambda: True,
    ) -> None:
        self._store = store
        self._tenants = tenants
        self._max_running = max_running
        self._max_queued = max_queued
        self._takes_work = takes_work
        self._is_closed = False
        self._waiting: dict[str, SharedSlot] = {}
        self._running: dict[str, SharedSlot] = {}
        """Those admitted here, parked ones included."""
        self._reserved: dict[str, Taken] = {}
        """Taken, and not enqueued yet."""
        self._missing: set[str] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._ready = asyncio.Event()
        self._failures = FailureLog(logger, "queue_unreachable", "queue_reachable")
        self.start_taken: StartTaken | None = None
        self.takes_over: Callable[[], bool] = lambda: False
        """Whether replicas without a lease are dead, as far as this one can tell."""
        self.queued = 0
        """How many wait, over all replicas, as last heard."""

    @property
    def running(self) -> int:
        """How many run here, or are about to."""
        return len(self._reserved) + sum(not each.is_parked for each in self._running.values())

    async def require_room(self, session_id: str, tenant: str) -> None:
        """Implements `Queue`: `join` does it."""

    async def join(self, entrant: Entrant) -> None:
        """Implements `Queue`."""
        name = entrant.execution_id
        quota = self._quota(tenant_of(name))
        reply = await self._store.join(entrant, quota, capacity=self._capacity(), max_queued=self._max_queued)
        self._observe(reply, joins=name)
        if reply.outcome is Outcome.QUOTA_EXCEEDED:
            metrics.execution_refused()
            raise QuotaExceededError(tenant_of(name), "queued", quota.queued or 0, retry_delay=RETRY_DELAY_SECONDS)
        if reply.outcome is Outcome.QUEUE_FULL:
            metrics.execution_refused()
            raise QueueFullError(
                f"no replica has room, and {reply.queued} executions are queued, which is all that "
                "MAX_QUEUED_EXECUTIONS allows; call again later",
                retry_delay=RETRY_DELAY_SECONDS,
            )

    def place(self, execution: Queueable, *, moves_to_end: bool = False) -> SharedSlot:
        """Implements `Queue`."""
        slot = SharedSlot(self, execution, moves_to_end=moves_to_end)
        self._running.pop(execution.id, None)  # a parked one
        if taken := self._reserved.pop(execution.id, None):
            self._admit(slot, taken)
        else:
            self._waiting[execution.id] = slot
        return slot

    def reserve(self, execution: Queueable) -> SharedSlot:
        """Implements `Queue`. Never called: the turns of sessions outlive replicas."""
        raise NotImplementedError

    async def offer(self, slot: SharedSlot) -> None:
        """Lets any replica take an execution. While the storage is away nobody does."""
        while True:
            entrant = slot.entrant
            quota = self._quota(tenant_of(entrant.execution_id))
            try:
                reply = await self._store.offer(
                    entrant, quota, capacity=self._capacity(), moves_to_end=slot.moves_to_end
                )
                break
            except LogError as error:
                self._failures.failed(error)
                await asyncio.sleep(_RETRY_INTERVAL_SECONDS)
        slot.is_offered = True
        if reply.outcome is Outcome.GONE:
            slot.execution.pass_on()
        self._observe(reply)
        if not slot.is_admitted and reply.outcome is Outcome.BEHIND:
            session = bare_id(entrant.session_id)
            slot.execution.notify(notice("SESSION_BUSY", f"waits for another execution of session {session} to end"))
        elif not slot.is_admitted and reply.position:
            _notify_position(slot, reply.position)

    def park(self, slot: SharedSlot) -> None:
        """Makes room for others, but not for those of the same session."""
        self._in_background(self._park(slot.execution.id))

    def release(self, slot: SharedSlot) -> None:
        """Takes a slot back."""
        name = slot.execution.id
        for slots in (self._waiting, self._running):
            if slots.get(name) is slot:
                del slots[name]
        self._in_background(self._leave(slot))

    async def withdraw(self, execution_id: str) -> int | None:
        """Implements `Queue`."""
        return await self._store.withdraw(execution_id)

    def forget(self, execution_id: str) -> None:
        """Implements `Queue`."""
        self._reserved.pop(execution_id, None)
        self._in_background(self._retried(lambda: self._store.leave(execution_id, capacity=self._capacity())))

    async def settled(self, timeout_seconds: float) -> None:
        """Waits until the storage knows what this replica has given back."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout_seconds)

    def close(self) -> None:
        """Implements `Queue`: this replica takes no more."""
        if not self._is_closed:
            self._is_closed = True
            self._in_background(self._take())

    async def run(self) -> None:
        """Takes what this replica has room for, when there is news and from time to time, until cancelled."""
        corrected_at = time.monotonic()
        with self._store.followed(self._observe_news):
            while True:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_POLL_INTERVAL_SECONDS):
                        await self._ready.wait()
                self._ready.clear()
                try:
                    interval = _POLL_INTERVAL_SECONDS if self.queued else _CORRECTION_INTERVAL_SECONDS
                    if time.monotonic() - corrected_at >= interval:
                        await self._correct()
                        corrected_at = time.monotonic()
                    else:
                        await self._take()
                except LogError as error:
                    self._failures.failed(error)

    async def _take(self) -> None:
        tenants = {tenant_of(each) for each in self._waiting}
        with suppress(LogError) if self._is_closed else nullcontext():
            quotas = {each: self._quota(each) for each in tenants}
            self._observe(await self._store.take(quotas, capacity=self._capacity()))

    async def _correct(self) -> None:
        reply, missing = await self._store.correct(
            [*self._running, *self._reserved],
            [name for name, slot in self._waiting.items() if slot.is_offered],
            capacity=self._capacity(),
            takes_over=self.takes_over(),
        )
        self._observe(reply)
        # One that has left meanwhile is not missing: what is found twice is, since a failover has lost it.
        for name in self._missing.intersection(missing):
            if (slot := self._running.get(name)) and not slot.is_parked:
                await self._store.restore(slot.entrant)
            elif slot := self._waiting.get(name):
                await self.offer(slot)
        self._missing = set(missing)

    def _observe(self, reply: QueueReply, *, joins: str = "") -> None:
        self._failures.succeeded()
        self.queued = reply.queued
        for taken in reply.taken:
            name = taken.execution_id
            if slot := self._waiting.pop(name, None):
                self._admit(slot, taken)
            elif name not in self._running and name not in self._reserved:
                self._reserved[name] = taken
                if name != joins:
                    self._in_background(self._start(taken))

    def _observe_news(self, news: QueueNews | None) -> None:
        if news is None:
            self._ready.set()
            return
        self.queued = news.queued
        for name, position in news.positions.items():
            if slot := self._waiting.get(name):
                _notify_position(slot, position)
        for name, replica in news.gone.items():
            if (slot := self._waiting.get(name)) and replica != self._store.replica:
                slot.execution.pass_on()
        if news.is_ready and self.running < self._max_running:
            self._ready.set()

    def _admit(self, slot: SharedSlot, taken: Taken) -> None:
        self._running[taken.execution_id] = slot
        metrics.queue_wait_ended(taken.waited_seconds)
        slot.admit()

    async def _start(self, taken: Taken) -> None:
        """Runs what another replica has accepted. One that cannot be run here keeps its place for others."""
        name = taken.execution_id
        try:
            while self.start_taken:
                try:
                    await self.start_taken(taken)
                    break
                except LogError as error:
                    logger.warning("taken_not_started execution=%s error=%s", name, error)
                    await asyncio.sleep(_RETRY_INTERVAL_SECONDS)
        finally:
            is_left = self._reserved.pop(name, None) is not None
        if is_left:
            await self._retried(lambda: self._store.interrupt(name, capacity=self._capacity()))

    async def _park(self, name: str) -> None:
        await self._retried(lambda: self._store.park(name, capacity=self._capacity()))

    async def _leave(self, slot: SharedSlot) -> None:
        """Gives up a place once the log has the end; an execution that somebody goes on with keeps it."""
        execution = slot.execution
        await execution.flush()
        if execution.is_passed_on:
            return
        leave = self._store.leave if execution.is_final else self._store.interrupt
        await self._retried(lambda: leave(execution.id, capacity=self._capacity()))

    async def _retried(self, change: Callable[[], Coroutine[Any, Any, QueueReply]]) -> None:
        while True:
            try:
                self._observe(await change())
            except LogError as error:
                self._failures.failed(error)
                await asyncio.sleep(_RETRY_INTERVAL_SECONDS)
            else:
                return

    def _in_background(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="queue-change")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _capacity(self) -> int:
        return self._max_running if self._takes_work() and not self._is_closed else 0

    def _quota(self, tenant: str) -> QuotaOfTenant:
        limits = self._tenants.limits_of(tenant)
        return QuotaOfTenant(limits.running, limits.queued, limits.weight)


def _notify_position(slot: SharedSlot, position: int) -> None:
    slot.execution.notify(notice("QUEUED", f"waits for its turn, at position {position} of the queue"))
