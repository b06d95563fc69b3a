"""One execution of a session at a time, in the order they came."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager


class SessionTurns:
    """Gives the executions of each session their turns."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._interested: Counter[str] = Counter()

    @asynccontextmanager
    async def turn(self, session_id: str, *, on_wait: Callable[[], None]) -> AsyncIterator[None]:
        """Waits for the turn, after calling `on_wait` if it is not at once. An empty id always has its turn."""
        if not session_id:
            yield
            return
        lock = self._locks.setdefault(session_id, asyncio.Lock())
        self._interested[session_id] += 1
        try:
            if lock.locked():
                on_wait()
            async with lock:
                yield
        finally:
            self._interested[session_id] -= 1
            if not self._interested[session_id]:
                del self._interested[session_id], self._locks[session_id]
