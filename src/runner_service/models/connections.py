"""HTTP connection pools for providers, shared by all clients."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import httpx2

_READ_TIMEOUT_SECONDS = 600.0  # the time limits of a model's choice are shorter, and end the call where it is made
CONNECT_TIMEOUT_SECONDS = 10.0
_MAX_CONNECTIONS, _MAX_IDLE_CONNECTIONS = 1000, 100


_LIMITS = httpx2.Limits(max_connections=_MAX_CONNECTIONS, max_keepalive_connections=_MAX_IDLE_CONNECTIONS)

ClientClass = Callable[..., httpx2.AsyncClient]


@dataclass(frozen=True)
class Connections:
    """`http` is the default pool; `exit_stack` closes the connections that a provider's library makes itself."""

    http: httpx2.AsyncClient
    exit_stack: AsyncExitStack
    _by_class: dict[ClientClass, httpx2.AsyncClient] = field(default_factory=dict)

    def client_of_class(self, client_class: ClientClass) -> httpx2.AsyncClient:
        """A client of another class with the same limits; one for all callers.

        Raises what `client_class` does. Not thread-safe.
        """
        if client_class not in self._by_class:
            self._by_class[client_class] = http = client_class(timeout=self.http.timeout, limits=_LIMITS)
            self.exit_stack.push_async_callback(http.aclose)
        return self._by_class[client_class]


@asynccontextmanager
async def shared_connections() -> AsyncIterator[Connections]:
    """Opens the connection pools; closes them at the end."""
    timeout = httpx2.Timeout(_READ_TIMEOUT_SECONDS, connect=CONNECT_TIMEOUT_SECONDS)
    async with AsyncExitStack() as exit_stack:
        # Loading the CA certificates blocks for 20 ms.
        http = await asyncio.to_thread(httpx2.AsyncClient, timeout=timeout, limits=_LIMITS)
        yield Connections(await exit_stack.enter_async_context(http), exit_stack)
