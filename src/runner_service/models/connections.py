"""The connections to providers, shared by all clients and closed with the process."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import httpx2

SILENCE = 60.0
"""How many seconds a provider may send nothing."""

_CONNECT_SECONDS = 10.0
_MOST_CONNECTIONS, _MOST_IDLE_CONNECTIONS = 1000, 100


_LIMITS = httpx2.Limits(max_connections=_MOST_CONNECTIONS, max_keepalive_connections=_MOST_IDLE_CONNECTIONS)

Kind = Callable[..., httpx2.AsyncClient]


@dataclass(frozen=True)
class Connections:
    """`http` for whoever takes it; `closing` for those who insist on connections of their own."""

    http: httpx2.AsyncClient
    closing: AsyncExitStack
    _of_kind: dict[Kind, httpx2.AsyncClient] = field(default_factory=dict)

    def of_kind(self, kind: Kind) -> httpx2.AsyncClient:
        """Connections of another kind, with the same bounds; the same ones for all who ask for that kind.

        Raises what `kind` does. Not for two threads at once.
        """
        if kind not in self._of_kind:
            self._of_kind[kind] = http = kind(timeout=self.http.timeout, limits=_LIMITS)
            self.closing.push_async_callback(http.aclose)
        return self._of_kind[kind]


@asynccontextmanager
async def shared_connections() -> AsyncIterator[Connections]:
    """Opens the connections, and closes them at the end."""
    timeout = httpx2.Timeout(SILENCE, connect=_CONNECT_SECONDS)
    async with AsyncExitStack() as closing:
        # Reading the certificates of all authorities takes some 20 ms: not on the event loop.
        http = await asyncio.to_thread(httpx2.AsyncClient, timeout=timeout, limits=_LIMITS)
        yield Connections(await closing.enter_async_context(http), closing)
