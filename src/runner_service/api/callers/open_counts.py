"""How many calls each tenant has open, here and in the other replicas."""

import asyncio
import logging
from collections import Counter, defaultdict

from runner_service.errors import QuotaExceededError
from runner_service.executions.tenant_limits import Tenants
from runner_service.storage.event_log import LogError
from runner_service.storage.open_calls import OpenCalls

logger = logging.getLogger(__name__)

_RETRY_DELAY_SECONDS = 5.0


class OpenCounts:
    """Counts open calls. Belongs to the event loop. Tenants without the quota `open_calls` cost nothing."""

    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants
        self.shared: OpenCalls | None = None
        """What replicas share; None when there is one."""
        self._open: Counter[str] = Counter()
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._telling: dict[str, asyncio.Task[None]] = {}

    async def opened(self, tenant: str) -> None:
        """Counts a call. Raises QuotaExceededError: its tenant has as many open as it may."""
        limit = self._tenants.limits_of(tenant).open_calls
        if limit is None:
            self._open[tenant] += 1
            return
        async with self._locks[tenant]:
            if self._open[tenant] >= limit or not await self._may_open(tenant, limit):
                raise QuotaExceededError(tenant, "open_calls", limit, retry_delay=_RETRY_DELAY_SECONDS)
            self._open[tenant] += 1

    def closed(self, tenant: str) -> None:
        """Counts a call no more; the other replicas learn it in the background."""
        self._open[tenant] -= 1
        is_limited = self._tenants.limits_of(tenant).open_calls is not None
        if self.shared and is_limited and tenant not in self._telling:
            self._telling[tenant] = asyncio.create_task(self._tell(tenant, self.shared), name=f"open-calls-of-{tenant}")

    async def _may_open(self, tenant: str, limit: int) -> bool:
        if self.shared is None:
            return True
        try:
            return await self.shared.open_call(tenant, self._open[tenant], limit)
        except LogError as error:
            logger.warning("open_calls_not_counted tenant=%s error=%s", tenant, error)
            return True  # whoever watches must not lose sight of what runs for that

    async def _tell(self, tenant: str, shared: OpenCalls) -> None:
        try:
            async with self._locks[tenant]:
                del self._telling[tenant]
                await shared.set_open_calls(tenant, self._open[tenant])
        except LogError as error:  # the next call tells it
            logger.warning("open_calls_not_told tenant=%s error=%s", tenant, error)
