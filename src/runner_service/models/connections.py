"""HTTP connection pools for providers, shared by all clients."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import httpx2

_READ_TIMEOUT_SECONDS = 600.0  # the time limits of a model's choice are shorter, and end the call where it is made
CONNECT_TIMEOUT_SECONDS = 10.0
_MAX_CONNECTIONS, _MAX_IDLE_CONNECTIONS = 1000, 100


_LIMITS = httpx2.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=_MAX_IDLE_CONNECTIONS)


@dataclass(frozen=True)
class Connections:
    """`http` is the default pool; `exit_stack` closes the connections that a provider's library makes itself."""

    http: httpx2.AsyncClient
    exit_stack: AsyncExitStack
    _by_adapter: dict[type[httpx2.AsyncClient], httpx2.AsyncClient] = field(default_factory=dict)

    def by_aiohttp(self, adapter: type[httpx2.AsyncClient]) -> httpx2.AsyncClient:
        """A client by a library's adapter for aiohttp, if that is installed; else the default one.

        It has the same limits, and is one for all callers. Not thread-safe.
        """
        try:
            from runner_service.models.aiohttp_connections import with_mapped_errors  # noqa: PLC0415  # optional
        except ImportError:
            return self.http
        if adapter not in self._by_adapter:
            http = with_mapped_errors(adapter)(timeout=self.http.timeout, limits=_LIMITS)
            self._by_adapter[adapter] = http
            self.exit_stack.push_async_callback(http.aclose)
        return self._by_adapter[adapter]


@asynccontextmanager
async def shared_connections() -> AsyncIterator[Connections]:
    """Opens the connection pools; closes them at the end."""
    timeout = httpx2.Timeout(_READ_TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS)
    async with AsyncExitStack() as exit_stack:
        # Loading the CA certificates blocks for 20 ms.
        http = await asyncio.to_thread(httpx2.AsyncClient, timeout=timeout, limits=_LIMITS)
        yield Connections(await exit_stack.enter_async_context(http), exit_stack)
