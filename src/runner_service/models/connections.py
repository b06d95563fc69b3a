"""The connections to providers, shared by all clients and closed with the process."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import httpx2

SILENCE = 60.0
"""How many seconds a provider may send nothing."""

_CONNECT_SECONDS = 10.0
_MOST_CONNECTIONS, _MOST_IDLE_CONNECTIONS = 1000, 100


@dataclass(frozen=True)
class Connections:
    """`http` for whoever takes it; `closing` for those who insist on connections of their own."""

    http: httpx2.AsyncClient
    closing: AsyncExitStack


@asynccontextmanager
async def shared_connections() -> AsyncIterator[Connections]:
    """Opens the connections, and closes them at the end."""
    timeout = httpx2.Timeout(SILENCE, connect=_CONNECT_SECONDS)
    limits = httpx2.Limits(max_connections=_MOST_CONNECTIONS, max_keepalive_connections=_MOST_IDLE_CONNECTIONS)
    async with AsyncExitStack() as closing:
        # Reading the certificates of all authorities takes some 20 ms: not on the event loop.
        http = await asyncio.to_thread(httpx2.AsyncClient, timeout=timeout, limits=limits)
        yield Connections(await closing.enter_async_context(http), closing)
