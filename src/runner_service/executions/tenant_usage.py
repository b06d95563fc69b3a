"""Admission of a tenant's executions by what it has used: starts of the last minute, tokens of the day."""

import time
from collections import deque
from datetime import UTC, datetime

from runner_service.errors import QuotaExceededEnd, QuotaExceededError
from runner_service.executions.tenant_limits import Tenants
from runner_service.storage.event_log import EventLog
from runner_service.storage.execution_filter import ExecutionFilter
from runner_service.storage.usage import UsageStore
from runner_service.v1 import execution_event_pb2 as event_pb2

_MINUTE_SECONDS = 60.0
_MAX_COUNTED_STARTS = 10_000


class TenantUsage:
    """What tenants use, counted in the storage where it has to outlive the process. Belongs to the event loop."""

    def __init__(self, tenants: Tenants, log: EventLog, store: UsageStore) -> None:
        self.tenants = tenants
        self._log = log
        self._store = store
        self._starts: dict[str, deque[float]] = {}

    async def require_start(self, tenant: str) -> None:
        """Checks that a tenant may start an execution now.

        Raises:
            QuotaExceededError: it has started too many in the last minute, or used up its tokens of the day.
            LogError: the log cannot be read.
        """
        limits = self.tenants.limits_of(tenant)
        if limits.tokens_per_day is not None and await self._tokens_left(tenant, limits.tokens_per_day) <= 0:
            raise QuotaExceededError(tenant, "tokens_per_day", limits.tokens_per_day)
        if limits.starts_per_minute is None:
            return
        starts = await self._starts_of(tenant)
        now = time.time()
        while starts and starts[0] <= now - _MINUTE_SECONDS:
            starts.popleft()
        if len(starts) >= limits.starts_per_minute:
            delay = starts[0] + _MINUTE_SECONDS - now if starts else _MINUTE_SECONDS
            raise QuotaExceededError(tenant, "starts_per_minute", limits.starts_per_minute, retry_delay=delay)
        starts.append(now)

    def meter(self, tenant: str, usage: event_pb2.Usage) -> "TokenMeter | None":
        """Returns what counts the tokens of an execution; None if nobody limits them."""
        limit = self.tenants.limits_of(tenant).tokens_per_day
        return None if limit is None else TokenMeter(self, tenant, usage)

    async def require_tokens(self, tenant: str) -> None:
        """Checks, before a model call, that a tenant has tokens left. Raises QuotaExceededEnd, LogError."""
        limit = self.tenants.limits_of(tenant).tokens_per_day
        if limit is not None and await self._tokens_left(tenant, limit) <= 0:
            raise QuotaExceededEnd(
                f"the tenant {tenant} has used up its {limit} tokens of today; it has new ones at 00:00 UTC"
            )

    async def add_tokens(self, tenant: str, tokens: int) -> None:
        """Counts tokens. Raises LogError."""
        await self._store.add(tenant, _today(), tokens)

    async def _tokens_left(self, tenant: str, limit: int) -> int:
        return limit - await self._store.total(tenant, _today())

    async def _starts_of(self, tenant: str) -> deque[float]:
        """Returns the times of the starts, at first those that the log has."""
        if tenant not in self._starts:
            wanted = ExecutionFilter(tenant=tenant, created_after=int((time.time() - _MINUTE_SECONDS) * 1e9))
            page = await self._log.list_executions(wanted, limit=_MAX_COUNTED_STARTS)
            times = sorted(each.create_time.ToNanoseconds() / 1e9 for each in page.executions)
            self._starts.setdefault(tenant, deque(times))
        return self._starts[tenant]


class TokenMeter:
    """Counts what one execution uses, from now on."""

    def __init__(self, tenants: TenantUsage, tenant: str, usage: event_pb2.Usage) -> None:
        self._tenants = tenants
        self._tenant = tenant
        self._usage = usage
        self._counted = self._total()

    async def require(self) -> None:
        """Counts what was used, and checks that the tenant has tokens left. Raises QuotaExceededEnd, LogError."""
        await self.count()
        await self._tenants.require_tokens(self._tenant)

    async def count(self) -> None:
        """Counts what was used since the last time. Raises LogError."""
        if tokens := self._total() - self._counted:
            self._counted += tokens
            await self._tenants.add_tokens(self._tenant, tokens)

    def _total(self) -> int:
        return self._usage.input_tokens + self._usage.output_tokens


def _today() -> str:
    return f"{datetime.now(UTC):%Y%m%d}"
