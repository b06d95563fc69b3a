"""The `UsageStore` in the event log's file."""

from runner_service.storage.sqlite.event_log import SqliteEventLog

_ADD = "INSERT INTO usage VALUES (?, ?, ?) ON CONFLICT (tenant, day) DO UPDATE SET tokens = tokens + excluded.tokens"


class SqliteUsageStore:
    """Counts tokens in the table `usage`. Counters of earlier days are deleted."""

    def __init__(self, log: SqliteEventLog) -> None:
        self._log = log

    async def add(self, tenant: str, day: str, tokens: int) -> None:
        """Implements `UsageStore`."""
        await self._log.write_rows([("DELETE FROM usage WHERE day < ?", (day,)), (_ADD, (tenant, day, tokens))])

    async def total(self, tenant: str, day: str) -> int:
        """Implements `UsageStore`."""
        rows = await self._log.read_rows("SELECT tokens FROM usage WHERE tenant = ? AND day = ?", (tenant, day))
        return int(rows[0][0]) if rows else 0
