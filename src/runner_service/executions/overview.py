"""What replicas do and tenants use, for the page."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from runner_service import states
from runner_service.executions.replica_reports import ReplicaReporter
from runner_service.identity import tenant_of
from runner_service.storage.event_log import EventLog
from runner_service.storage.execution_filter import ExecutionFilter
from runner_service.v1 import agent_runner_pb2 as runner_pb2

_USAGE_SECONDS = 24 * 3600
_MAX_COUNTED_EXECUTIONS = 10_000
_KEPT_SECONDS = 5.0
_MAX_KEPT = 100


@dataclass(slots=True)
class _TenantUsage:
    """What the executions of a tenant have used."""

    tenant: str
    executions: int = 0
    failed: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    model_calls: int = 0
    cost_nanos: dict[str, int] = field(default_factory=dict)
    """By currency, in billionths."""

    def add(self, execution: runner_pb2.Execution) -> None:
        self.executions += 1
        self.failed += states.is_final(execution.state) and execution.HasField("error")
        self.input_tokens += execution.usage.input_tokens
        self.output_tokens += execution.usage.output_tokens
        self.model_calls += execution.usage.model_calls
        if currency := execution.cost.currency:
            self.cost_nanos[currency] = self.cost_nanos.get(currency, 0) + execution.cost.nanos


class Overview:
    """Answers with what becomes JSON. Belongs to the event loop."""

    def __init__(self, reporter: ReplicaReporter, log: EventLog) -> None:
        self.log = log
        self._reporter = reporter
        self._usage: dict[str, tuple[float, dict[str, Any]]] = {}
        self._counting = asyncio.Lock()

    async def replicas(self) -> dict[str, Any]:
        """Returns the reports of all replicas, and the name of this one. Raises LogError."""
        reports = await self._reporter.all()
        return {"now": time.time(), "this": self._reporter.name, "replicas": [asdict(each) for each in reports]}

    async def usage(self, tenant: str) -> dict[str, Any]:
        """Returns what was used by the executions accepted in the last 24 h, by tenant, as it was at most 5 s ago.

        Of more than 10,000 executions the newest are counted. Raises LogError.
        """
        async with self._counting:  # however many ask, it is counted once
            at, known = self._usage.get(tenant, (0.0, {}))
            if not known or time.monotonic() - at > _KEPT_SECONDS:
                since = int((time.time() - _USAGE_SECONDS) * 1e9)
                wanted = ExecutionFilter(created_after=since, tenant=tenant)
                page = await self.log.list_executions(wanted, limit=_MAX_COUNTED_EXECUTIONS)
                tenants = await asyncio.to_thread(_by_tenant, page.executions)
                known = {"complete": not page.next_key, "tenants": [asdict(each) for each in tenants]}
                if len(self._usage) >= _MAX_KEPT:
                    self._usage.clear()
                self._usage[tenant] = time.monotonic(), known
            return known


def _by_tenant(executions: Sequence[runner_pb2.Execution]) -> list[_TenantUsage]:
    totals: dict[str, _TenantUsage] = {}
    for each in executions:
        tenant = tenant_of(each.execution_id)
        totals.setdefault(tenant, _TenantUsage(tenant)).add(each)
    return [total for _, total in sorted(totals.items())]
