"""What tenants have queued and running over all replicas, as one replica counts its own part of it."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable

from runner_service.errors import QuotaExceededError
from runner_service.executions.tenant_limits import TenantLimits, Tenants
from runner_service.identity import tenant_of
from runner_service.storage.event_log import LogError
from runner_service.storage.tenant_slots import TenantSlots
from runner_service.telemetry import metrics

logger = logging.getLogger(__name__)

_CORRECTION_INTERVAL_SECONDS = 5.0
_RETRY_DELAY_SECONDS = 5.0


class SharedTenants:
    """Counts the executions of this replica with those of the others. Belongs to the event loop.

    Tenants without limits cost the storage nothing. What the storage was not told, or has lost, is corrected.
    """

    def __init__(self, tenants: Tenants, slots: TenantSlots) -> None:
        self._tenants = tenants
        self._slots = slots
        self._own: defaultdict[str, dict[str, bool]] = defaultdict(dict)
        """By tenant: the executions of this replica, and whether they are running."""
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._leaving: set[asyncio.Task[None]] = set()

    def are_limited(self, tenant: str) -> bool:
        """Tells whether a tenant may have only so many executions queued or running."""
        limits = self._limits(tenant)
        return limits.running is not None or limits.queued is not None

    async def join(self, execution_id: str, session_id: str, *, has_room: bool) -> None:
        """Counts an execution as queued. Raises QuotaExceededError, LogError."""
        tenant = tenant_of(execution_id)
        limits = self._limits(tenant)
        async with self._locks[tenant]:
            if self.are_limited(tenant) and not await self._slots.join(
                execution_id, session_id, running=limits.running, queued=limits.queued, has_room=has_room
            ):
                metrics.execution_refused()
                raise QuotaExceededError(tenant, "queued", limits.queued or 0, retry_delay=_RETRY_DELAY_SECONDS)
            self._own[tenant][execution_id] = False

    async def admit(self, execution_id: str) -> bool:
        """Counts an execution as running, if its tenant may have one more; False also while that cannot be told."""
        tenant = tenant_of(execution_id)
        async with self._locks[tenant]:
            is_admitted = True
            if self.are_limited(tenant):
                try:
                    is_admitted = await self._slots.admit(execution_id, running=self._limits(tenant).running)
                except LogError as error:
                    logger.warning("quota_not_read execution=%s error=%s", execution_id, error)
                    is_admitted = False
            self._own[tenant][execution_id] = is_admitted
            return is_admitted

    def leave(self, execution_id: str, then: Callable[[], None]) -> None:
        """Counts an execution no more, in the background; calls `then` when others may take its place."""
        task = asyncio.create_task(self._leave(execution_id, then), name=f"quota-of-{execution_id}")
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    async def _leave(self, execution_id: str, then: Callable[[], None]) -> None:
        tenant = tenant_of(execution_id)
        async with self._locks[tenant]:
            if self._own[tenant].pop(execution_id, None) is None:
                return
            if self.are_limited(tenant):
                try:
                    await self._slots.leave(execution_id)
                except LogError as error:
                    logger.warning("quota_not_given_back execution=%s error=%s", execution_id, error)
        then()

    async def correct_forever(self) -> None:
        """Corrects from time to time what the storage counts of this replica, until cancelled."""
        while True:
            await asyncio.sleep(_CORRECTION_INTERVAL_SECONDS)
            try:
                for tenant in filter(self.are_limited, list(self._own)):
                    await self.correct(tenant)
            except LogError as error:
                logger.warning("quotas_not_corrected error=%s", error)

    async def correct(self, tenant: str) -> None:
        """Corrects what the storage counts of this replica. Raises LogError."""
        async with self._locks[tenant]:
            await self._slots.correct(tenant, self._own[tenant])

    def _limits(self, tenant: str) -> TenantLimits:
        return self._tenants.limits_of(tenant)
