"""The `UsageStore` in the event log's file."""

import time
from collections import deque

from runner_service.storage.execution_filter import ExecutionFilter
from runner_service.storage.sqlite.event_log import SqliteEventLog

_ADD = "INSERT INTO usage VALUES (?, ?, ?) ON CONFLICT (tenant, day) DO UPDATE SET tokens = tokens + excluded.tokens"
_MINUTE_SECONDS = 60.0
_MAX_COUNTED_STARTS = 10_000


class SqliteUsageStore:
    """Counts tokens in the table `usage`, and starts in memory, since the log has them. Belongs to the event loop.

    Counters of earlier days are deleted.
    """

    def __init__(self, log: SqliteEventLog) -> None:
        self._log = log
        self._starts: dict[str, deque[float]] = {}

    async def add(self, tenant: str, day: str, tokens: int) -> None:
        """Implements `UsageStore`."""
        await self._log.write_rows([("DELETE FROM usage WHERE day < ?", (day,)), (_ADD, (tenant, day, tokens))])

    async def total(self, tenant: str, day: str) -> int:
        """Implements `UsageStore`."""
        rows = await self._log.read_rows("SELECT tokens FROM usage WHERE tenant = ? AND day = ?", (tenant, day))
        return int(rows[0][0]) if rows else 0

    async def start(self, tenant: str, limit: int) -> float:
        """Implements `UsageStore`."""
        starts = await self._starts_of(tenant)
        now = time.time()
        while starts and starts[0] <= now - _MINUTE_SECONDS:
            starts.popleft()
        if len(starts) >= limit:
            return starts[0] + _MINUTE_SECONDS - now if starts else _MINUTE_SECONDS
        starts.append(now)
        return 0.0

    async def _starts_of(self, tenant: str) -> deque[float]:
        """Returns the times of the starts, at first those that the log has."""
        if tenant not in self._starts:
            wanted = ExecutionFilter(tenant=tenant, created_after=int((time.time() - _MINUTE_SECONDS) * 1e9))
            page = await self._log.list_executions(wanted, limit=_MAX_COUNTED_STARTS)
            times = sorted(each.create_time.ToNanoseconds() / 1e9 for each in page.executions)
            self._starts.setdefault(tenant, deque(times))
        return self._starts[tenant]
