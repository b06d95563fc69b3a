"""Who has the files of a sandbox for itself: an execution that runs, or a revert."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager


class SandboxLocks:
    """One lock for each session, and for each execution without one. Belongs to the event loop."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: dict[str, int] = {}

    def is_held(self, name: str) -> bool:
        """Returns whether somebody has it."""
        return name in self._users

    @asynccontextmanager
    async def held(self, name: str) -> AsyncIterator[None]:
        """Has it during the block, after whoever has it now."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        self._users[name] = self._users.get(name, 0) + 1
        try:
            async with lock:
                yield
        finally:
            self._users[name] -= 1
            if not self._users[name]:
                del self._users[name], self._locks[name]
