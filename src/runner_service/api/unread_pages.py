"""Bounds the memory of pages that watchers have not read, per watcher, per connection and for the process.

Pages get smaller as the budget is used up. When nothing is left, the watchers that have read nothing for longest are
disconnected; one that reads is not made to wait for one that does not.
"""

import asyncio
import ctypes
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from operator import attrgetter

from runner_service.events.notifier import Notifier
from runner_service.events.stream import MAX_PAGE_BYTES

logger = logging.getLogger(__name__)

MAX_PROCESS_BYTES = 64 * 1024 * 1024
MAX_CONNECTION_BYTES = 16 * 1024 * 1024

_MIN_PAGE_BYTES = 16 * 1024
_SHARE = 16  # of what is left for one page
_STALL_SECONDS = 1.0
"""A write that takes longer may be cut off in favour of others."""

_FREED_SHARE = 8  # of the budget, which disconnecting makes free at once
_TRIM_BYTES = 16 * 1024 * 1024
_TRIM_DELAY_SECONDS = 1.0  # gRPC frees its copies later than calls end


class UnreadPages:
    """The pages of all watchers that are read from the log or wait for the network. For the event loop."""

    def __init__(self, *, max_bytes: int = MAX_PROCESS_BYTES, max_connection_bytes: int = MAX_CONNECTION_BYTES) -> None:
        self.max_bytes = max_bytes
        self.max_connection_bytes = max_connection_bytes
        self.used = 0
        """Bytes of all pages."""
        self.used_by: dict[str, int] = {}
        """Bytes by connection."""
        self.writes: set[PageLease] = set()
        """The pages that are written now."""
        self._peak = 0
        self._released = Notifier()
        self._trimming: asyncio.Future[None] | None = None

    @contextmanager
    def lease(self, connection: str, disconnect: Callable[[], None]) -> Iterator["PageLease"]:
        """Yields the budget of the pages of a watcher, which `disconnect` ends: one page at a time."""
        lease = PageLease(self, connection, disconnect)
        try:
            yield lease
        finally:
            lease.end_write()

    def count(self, connection: str, size: int) -> None:
        """Adds to what a connection uses, or takes from it."""
        self.used += size
        self._peak = max(self._peak, self.used)
        if used := self.used_by.get(connection, 0) + size:
            self.used_by[connection] = used
        else:
            self.used_by.pop(connection, None)
        if size < 0:
            self._released.notify_all()

    async def make_room(self, writes: list["PageLease"], wanted: int) -> None:
        """Disconnects the oldest stalled ones of these writes, until `wanted` bytes are freed; then waits for any."""
        now = asyncio.get_running_loop().time()
        freed = 0
        for write in sorted(writes, key=attrgetter("since")):
            if freed >= wanted or write.since + _STALL_SECONDS > now:
                break
            logger.warning("watcher_disconnected reason=unread_bytes size=%d", write.size)
            write.disconnect()
            self.writes.discard(write)
            freed += write.size
        await self._released.wait(_STALL_SECONDS / 10)

    def return_memory(self) -> None:
        """Gives freed memory back to the system once most of what was used is free again."""
        if self._peak >= _TRIM_BYTES and self.used * _SHARE < self._peak:
            self._peak = self.used
            asyncio.get_running_loop().call_later(_TRIM_DELAY_SECONDS, self._trim)

    def _trim(self) -> None:
        self._trimming = asyncio.get_running_loop().run_in_executor(None, _trim)


class PageLease:
    """The share of a watcher's page in the budget. Get it from `UnreadPages.lease`."""

    def __init__(self, pages: UnreadPages, connection: str, disconnect: Callable[[], None]) -> None:
        self._pages = pages
        self.connection = connection
        self.disconnect = disconnect
        self.size = 0
        self.since = 0.0

    def claim(self) -> int:
        """Returns how large the page may be, and counts it as that."""
        pages = self._pages
        left = min(pages.max_bytes - pages.used, pages.max_connection_bytes - self._connection_used())
        self._resize(min(MAX_PAGE_BYTES, max(_MIN_PAGE_BYTES, left // _SHARE)))
        return self.size

    async def begin_write(self, size: int) -> None:
        """Counts the page by its real size, and waits until there is room for it."""
        self._resize(size)
        pages = self._pages
        while True:
            if self._connection_used() > max(size, pages.max_connection_bytes):
                writes = [write for write in pages.writes if write.connection == self.connection]
                budget = pages.max_connection_bytes
            elif pages.used > max(size, pages.max_bytes):
                writes, budget = list(pages.writes), pages.max_bytes
            else:
                break
            if not writes:  # all that is counted is about to be written: somebody has to begin
                break
            await pages.make_room(writes, max(size, budget // _FREED_SHARE))
        self.since = asyncio.get_running_loop().time()
        pages.writes.add(self)

    def end_write(self) -> None:
        """Gives the budget of the page back."""
        self._pages.writes.discard(self)
        self._resize(0)
        self._pages.return_memory()

    def _connection_used(self) -> int:
        return self._pages.used_by.get(self.connection, 0) if self.connection else 0

    def _resize(self, size: int) -> None:
        self._pages.count(self.connection, size - self.size)
        self.size = size


def connection_of(peer: str) -> str:
    """Returns what names the connection of a call; empty for unix sockets, which do not tell."""
    return "" if peer.startswith("unix") else peer


def _trim() -> None:
    with suppress(AttributeError, OSError):  # only glibc has it, and needs it
        ctypes.CDLL(None).malloc_trim(0)
