"""The `AuditStore` in the event log's file."""

import time
from collections.abc import Sequence

from runner_service.storage.audit import MAX_ENTRIES, AuditPage
from runner_service.storage.sqlite.event_log import SqliteEventLog

_ADD = "INSERT INTO audit (added, tenant, entry) VALUES (?, ?, ?)"
_LIMIT = "DELETE FROM audit WHERE key <= (SELECT MAX(key) FROM audit) - ?"
_PAGE = "SELECT key, entry FROM audit WHERE (? = 0 OR key < ?) AND (? = '' OR tenant = ?) ORDER BY key DESC LIMIT ?"


class SqliteAuditStore:
    """Keeps entries in the table `audit`."""

    def __init__(self, log: SqliteEventLog) -> None:
        self._log = log

    async def add(self, entries: Sequence[tuple[str, bytes]]) -> None:
        """Implements `AuditStore`."""
        now = time.time()
        rows = [(_ADD, (now, tenant, entry)) for tenant, entry in entries]
        await self._log.write_rows([*rows, (_LIMIT, (MAX_ENTRIES,))])

    async def page(self, tenant: str, *, limit: int, before_key: int = 0) -> AuditPage:
        """Implements `AuditStore`."""
        rows = await self._log.read_rows(_PAGE, (before_key, before_key, tenant, tenant, limit + 1))
        next_key = rows[limit - 1][0] if len(rows) > limit else 0
        return AuditPage([row[1] for row in rows[:limit]], next_key)

    async def delete_before(self, unix_time: float) -> None:
        """Implements `AuditStore`."""
        await self._log.write_rows([("DELETE FROM audit WHERE added < ?", (unix_time,))])
