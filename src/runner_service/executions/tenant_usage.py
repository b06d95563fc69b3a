"""Admission of a tenant's executions by what it has used: starts of the last minute, tokens of the day."""

import logging
from datetime import UTC, datetime

from runner_service.errors import QuotaExceededEnd, QuotaExceededError
from runner_service.executions.tenant_limits import Tenants
from runner_service.storage.event_log import LogError
from runner_service.storage.usage import UsageStore
from runner_service.v1 import execution_event_pb2 as event_pb2

logger = logging.getLogger(__name__)


class TenantUsage:
    """What tenants use, counted in the storage. Belongs to the event loop."""

    def __init__(self, tenants: Tenants, store: UsageStore) -> None:
        self.tenants = tenants
        self._store = store

    async def require_start(self, tenant: str) -> None:
        """Checks that a tenant may start an execution now.

        Raises:
            QuotaExceededError: it has started too many in the last minute, or used up its tokens of the day.
            LogError: what it has used cannot be read.
        """
        limits = self.tenants.limits_of(tenant)
        if limits.tokens_per_day is not None and await self._tokens_left(tenant, limits.tokens_per_day) <= 0:
            raise QuotaExceededError(tenant, "tokens_per_day", limits.tokens_per_day)
        if limits.starts_per_minute is None:
            return
        if delay := await self._store.start(tenant, limits.starts_per_minute):
            raise QuotaExceededError(tenant, "starts_per_minute", limits.starts_per_minute, retry_delay=delay)

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

    async def count_rest(self) -> None:
        """Counts what was used since the last time; if that cannot be stored, it is logged."""
        try:
            await self.count()
        except LogError as error:
            logger.warning("tokens_not_counted reason=%s", error)

    def _total(self) -> int:
        return self._usage.input_tokens + self._usage.output_tokens


def _today() -> str:
    return f"{datetime.now(UTC):%Y%m%d}"
