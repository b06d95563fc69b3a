"""Renews the lease of this replica, and takes over what dead replicas owned, unasked.

A lease only says when. That nothing is done twice rests on the tokens of owners.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress

from runner_service.errors import CallError, CancelledEnd, UnavailableError
from runner_service.executions.approval_service import ApprovalService
from runner_service.executions.handover import Handover
from runner_service.executions.lifecycle import Lifecycle
from runner_service.executions.ownership import ExecutionOwnership
from runner_service.executions.readiness import Readiness, Stage
from runner_service.executions.registry import Registry
from runner_service.executions.replica_reports import ReplicaReporter
from runner_service.identity import OwnerKey
from runner_service.storage.event_log import LogError
from runner_service.storage.ownership import Replicas, UnsuitableStorageError
from runner_service.telemetry.failure_log import FailureLog
from runner_service.v1 import agent_runner_pb2 as runner_pb2

logger = logging.getLogger(__name__)

_BEATS_PER_LEASE = 4
_TAKEOVERS_AT_ONCE = 16
_STORAGE, _REPLICATION = "storage", "replication"


class Takeover:
    """Belongs to the event loop."""

    def __init__(
        self,
        handover: Handover,
        approvals: ApprovalService,
        registry: Registry,
        lifecycle: Lifecycle,
        ownership: ExecutionOwnership,
        replicas: Replicas,
        *,
        readiness: Readiness,
        reporter: ReplicaReporter,
    ) -> None:
        self._handover = handover
        self._approvals = approvals
        self._registry = registry
        self._lifecycle = lifecycle
        self._ownership = ownership
        self._replicas = replicas
        self._readiness = readiness
        self._reporter = reporter
        self._interval_seconds = replicas.lease_seconds / _BEATS_PER_LEASE
        self._last_beat = self._steady_since = 0.0
        self._was_replicated = True
        self._dead: list[str] = []
        self._has_dead = asyncio.Event()
        self._rounds = 0
        self._idle: set[str] = set()
        """What this replica owned and did not work on when it last looked."""

    @property
    def may_claim(self) -> bool:
        """Whether who seems dead is dead: this replica has renewed its own lease for as long as one lasts."""
        return self.is_steady() and self._readiness.stage is Stage.SERVING

    async def run(self) -> None:
        """Renews the lease, and attends to executions, until cancelled."""
        await self._reach()
        async with asyncio.TaskGroup() as tasks:  # however long it attends to many, the lease is renewed
            tasks.create_task(self._renew_forever(), name="lease")
            tasks.create_task(self._attend_forever(), name="attend")

    async def _renew_forever(self) -> None:
        while True:
            try:
                await self._renew()
            except LogError as error:
                if self._steady_since:
                    logger.warning("lease_not_renewed error=%s", error)
                self._steady_since = 0.0
                silent_seconds = time.monotonic() - self._last_beat
                if silent_seconds > self._replicas.lease_seconds - self._interval_seconds:
                    self._readiness.set_held_up(_STORAGE, is_held_up=True)
            await asyncio.sleep(self._interval_seconds)

    async def _attend_forever(self) -> None:
        while True:
            if self._steady_since:
                try:
                    await self._attend()
                except LogError as error:
                    logger.warning("executions_not_attended error=%s", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._interval_seconds):
                    await self._has_dead.wait()
            self._has_dead.clear()

    async def leave(self) -> None:
        """Ends the lease of this replica."""
        try:
            await self._replicas.leave()
        except LogError as error:
            logger.warning("lease_not_ended error=%s", error)

    async def _reach(self) -> None:
        self._readiness.set_held_up(_STORAGE, is_held_up=True)
        failures = FailureLog(logger, "storage_unreachable", "storage_reached")
        while True:
            try:
                await self._replicas.reach()
            except UnsuitableStorageError as error:
                logger.error("storage_unsuitable error=%s", error)  # noqa: TRY400  # its text says all
            except LogError as error:
                failures.failed(error)
            else:
                failures.succeeded()
                return
            await asyncio.sleep(self._interval_seconds)

    async def _renew(self) -> None:
        self._dead = list(await self._replicas.beat())
        now = time.monotonic()
        if not self._steady_since or now - self._last_beat > self._replicas.lease_seconds:
            logger.info("lease_held")
            self._steady_since = now  # while nobody could renew, everybody looks dead
        self._last_beat = now
        self._readiness.set_held_up(_STORAGE, is_held_up=False)
        self._observe_replication()
        if self._dead:
            self._has_dead.set()

    async def _attend(self) -> None:
        await self._read_letters()
        attended = [each.id for each in self._registry.in_memory() if each.is_remote and each.callers]
        await self._replicas.attend(attended)
        await self._reporter.publish()
        if self._readiness.stage is not Stage.SERVING:
            return
        await _some_at_once(self._take_over, await self._replicas.handed_over())
        if self.may_claim:
            for replica in self._dead:
                await self._take_over_from(replica)
        self._rounds += 1
        if self._rounds % _BEATS_PER_LEASE == 0:
            await self._take_over_idle()

    def is_steady(self) -> bool:
        """Tells whether this replica has held its lease for the time of a whole one."""
        now, lease_seconds = time.monotonic(), self._replicas.lease_seconds
        return 0 < self._steady_since <= now - lease_seconds and now - self._last_beat <= lease_seconds

    def _observe_replication(self) -> None:
        """Without the copies that are required nothing new starts; what runs goes on."""
        is_replicated = self._replicas.is_replicated
        if is_replicated != self._was_replicated:
            self._was_replicated = is_replicated
            level = logging.INFO if is_replicated else logging.WARNING
            logger.log(level, "storage_replicated is_replicated=%s", is_replicated)
        self._readiness.set_held_up(_REPLICATION, is_held_up=not is_replicated)

    async def _read_letters(self) -> None:
        own = {each.id: each for each in self._registry.in_memory() if each.is_active and not each.is_remote}
        letters = await self._replicas.letters({name: each.stream.owner_token for name, each in own.items()})
        for name, letter in letters.items():
            execution = own[OwnerKey(name)]
            if not letter.is_owner:
                execution.stream.fence()
            elif letter.cancel_reason is not None:
                if await self._ownership.own_to_end(execution):
                    self._lifecycle.end(execution, CancelledEnd(letter.cancel_reason.strip() or "cancelled"))
            else:
                self._lifecycle.observe_callers(execution, letter)
                for decision in letter.decisions:
                    await self._decide(runner_pb2.SubmitApprovalRequest.FromString(decision))

    async def _decide(self, request: runner_pb2.SubmitApprovalRequest) -> None:
        try:
            await self._approvals.apply(request)
        except CallError as error:  # the replica that was asked finds no decision in the log
            logger.info("decision_refused execution=%s reason=%s", request.execution_id, error)

    async def _take_over_from(self, replica: str) -> None:
        owned = list(await self._replicas.owned_by(replica))
        random.shuffle(owned)  # so that several takers share them

        async def take_over(execution_id: str) -> None:
            await self._take_over(execution_id)
            await self._replicas.forget(replica, execution_id)

        await _some_at_once(take_over, owned)
        await self._replicas.forget(replica)

    async def _take_over_idle(self) -> None:
        """Goes on with what ended here and a failover of Redis has brought back, and what it failed to take over."""
        active = {each.id for each in self._registry.in_memory() if each.is_active and not each.is_remote}
        idle = set(await self._replicas.owned_by()) - active
        await _some_at_once(self._go_on_with_idle, idle & self._idle)  # not one that is just about to begin
        self._idle = idle

    async def _go_on_with_idle(self, execution_id: str) -> None:
        known = await self._registry.lookup(OwnerKey(execution_id))
        if known is None:
            await self._replicas.forget("", execution_id)
        elif known.is_final:
            await self._ownership.release(known)
        else:
            await self._take_over(execution_id, anew=True)

    async def _take_over(self, execution_id: str, *, anew: bool = False) -> None:
        try:
            await self._handover.take_over(OwnerKey(execution_id), anew=anew)
        except UnavailableError as error:
            logger.info("takeover_postponed execution=%s reason=%s", execution_id, error)
        except CallError as error:
            logger.warning("takeover_refused execution=%s reason=%s", execution_id, error)


async def _some_at_once(work: Callable[[str], Awaitable[None]], execution_ids: Iterable[str]) -> None:
    """Does some work for each execution. Raises what failed first, once nothing is under way any more."""
    left = iter(execution_ids)

    async def work_through() -> None:
        for each in left:
            await work(each)

    workers = (work_through() for _ in range(_TAKEOVERS_AT_ONCE))
    for result in await asyncio.gather(*workers, return_exceptions=True):
        if result is not None:
            raise result
