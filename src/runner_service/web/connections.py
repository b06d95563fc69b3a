"""Bounds the connections of the page, and ends those that keep one open without asking or reading.

The HTTP server itself has no time limit for the head of a request, and none for a response that nobody reads.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from aiohttp import web

MAX_CONNECTIONS = 256
"""A browser opens up to six. Of more, the one that has been idle longest makes room for the next."""

_IDLE_TIMEOUT_SECONDS = 30.0
"""From the start of a connection, or the last response, until the next request is there and that response is read."""


class Connections:
    """The open connections. It is the protocol factory of the listening socket. Belongs to the event loop."""

    def __init__(
        self, server: web.Server, *, limit: int = MAX_CONNECTIONS, idle_timeout: float = _IDLE_TIMEOUT_SECONDS
    ) -> None:
        self._server = server
        self._limit = limit
        self.idle_timeout = idle_timeout
        self._idle: dict[asyncio.BaseTransport, asyncio.TimerHandle] = {}
        """Those without a request, the one that is idle longest first."""
        self._busy: set[asyncio.BaseTransport] = set()

    def __call__(self) -> asyncio.Protocol:
        """Makes the protocol of a new connection."""
        return _Connection(self, self._server())

    def __len__(self) -> int:
        return len(self._idle) + len(self._busy)

    @property
    def busy_count(self) -> int:
        """How many have a request that is being answered."""
        return len(self._busy)

    def add(self, transport: asyncio.Transport) -> bool:
        """Takes a connection; False if it is aborted, because all others are busy."""
        if len(self) >= self._limit:
            longest = next(iter(self._idle), None)
            if longest is None:
                transport.abort()
                return False
            self._abort(longest)
        self._rest(transport)
        return True

    def remove(self, transport: asyncio.BaseTransport | None) -> None:
        """Forgets a connection that has ended."""
        if transport is not None:
            self._busy.discard(transport)
            if timer := self._idle.pop(transport, None):
                timer.cancel()

    @contextmanager
    def busy(self, transport: asyncio.BaseTransport | None) -> Iterator[None]:
        """Keeps a connection open while its request is answered."""
        if transport is None or transport not in self._idle:  # it has ended meanwhile
            yield
            return
        self._idle.pop(transport).cancel()
        self._busy.add(transport)
        try:
            yield
        finally:
            if transport in self._busy:
                self._busy.discard(transport)
                self._rest(transport)

    def _rest(self, transport: asyncio.BaseTransport) -> None:
        timer = asyncio.get_running_loop().call_later(self.idle_timeout, self._abort, transport)
        self._idle[transport] = timer

    def _abort(self, transport: asyncio.BaseTransport) -> None:
        self.remove(transport)
        if isinstance(transport, asyncio.Transport):
            transport.abort()


class _Connection(asyncio.Protocol):
    """Passes everything on to the protocol of the HTTP server."""

    def __init__(self, connections: Connections, handler: web.RequestHandler) -> None:
        self._connections = connections
        self._handler = handler
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if self._connections.add(transport):  # type: ignore[arg-type]  # of a stream protocol
            self._transport = transport  # type: ignore[assignment]  # as above
            self._handler.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.remove(self._transport)
        if self._transport:
            self._handler.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._transport:
            self._handler.data_received(data)

    def eof_received(self) -> None:
        if self._transport:
            self._handler.eof_received()

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()
