"""Where the audit is kept."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

MAX_ENTRIES = 100_000
"""How many entries are kept; the oldest go first."""


class AuditPage(NamedTuple):
    """Serialized entries, the newest first; `next_key` continues the list, 0 at its end."""

    entries: Sequence[bytes]
    next_key: int


class AuditStore(Protocol):
    """Keeps the newest `MAX_ENTRIES` entries. All methods raise LogError."""

    async def add(self, entries: Sequence[tuple[str, bytes]]) -> None:
        """Adds entries, each with its tenant; empty for none."""

    async def page(self, tenant: str, *, limit: int, before_key: int = 0) -> AuditPage:
        """Returns entries of a tenant, or of all for an empty one."""

    async def delete_before(self, unix_time: float) -> None:
        """Deletes entries that were added before that time."""
