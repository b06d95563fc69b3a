"""HTTP server for Prometheus scrapes: one GET per connection, protected as the service's own port is."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

from runner_service.addresses import TcpAddress
from runner_service.api.callers.sources import Callers
from runner_service.errors import UnauthenticatedError
from runner_service.server.binding import BindError
from runner_service.server.tls import HttpTls

_PATH = "/metrics"
_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_REQUEST_TIMEOUT_SECONDS = 10.0
_MAX_REQUEST_BYTES = 16 * 1024
_MAX_CONNECTIONS = 8

Render = Callable[[], bytes]


@asynccontextmanager
async def serve_metrics(
    wanted: TcpAddress, render: Render, callers: Callers, tls: HttpTls | None = None
) -> AsyncIterator[TcpAddress]:
    """Serves the result of `render`, called in a thread. Yields the address with its real port.

    Raises:
        BindError: it cannot be listened on.
    """
    page = _MetricsServer(render, callers, tls)
    try:
        server = await asyncio.start_server(
            page.answer, wanted.host, wanted.port, limit=_MAX_REQUEST_BYTES, ssl=tls.context if tls else None
        )
    except OSError as error:
        raise BindError(f"METRICS_ADDRESS {wanted} cannot be listened on: {error.strerror}") from error
    try:
        yield TcpAddress(wanted.host, server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await page.close()


class _MetricsServer:
    """Answers one request per connection, and tracks the open connections."""

    def __init__(self, render: Render, callers: Callers, tls: HttpTls | None) -> None:
        self._tls = tls
        self._render = render
        self._callers = callers
        self._rendering = asyncio.Lock()
        self._connections: set[asyncio.Task[None]] = set()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Handles a connection. Slow clients and malformed requests are disconnected."""
        task = asyncio.current_task()
        if task is None or len(self._connections) >= _MAX_CONNECTIONS:
            writer.close()
            return
        self._connections.add(task)
        try:
            async with asyncio.timeout(_REQUEST_TIMEOUT_SECONDS):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._response(head))
                await writer.drain()
            if self._tls:
                await asyncio.to_thread(self._tls.reload_if_changed)
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self._connections.discard(task)
            writer.close()

    async def close(self) -> None:
        """Closes the connections that are still open."""
        for task in list(self._connections):
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _response(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.split(b" ", 1)[0].split(b"?", 1)[0]
        if path != _PATH.encode():
            return _http("404 Not Found", f"metrics are at {_PATH}\n".encode())
        if method not in {b"GET", b"HEAD"}:
            return _http("405 Method Not Allowed", b"")
        try:
            caller = self._callers.by_token(_fields(head))
        except UnauthenticatedError as error:
            return _http("401 Unauthorized", f"{error.message}\n".encode(), more="WWW-Authenticate: Bearer\r\n")
        if not caller.is_operator:
            return _http("403 Forbidden", b"metrics are of all tenants: they need the role operate\n")
        async with self._rendering:
            body = await asyncio.to_thread(self._render)
        return _http("200 OK", body, with_body=method == b"GET")


def _fields(head: bytes) -> Iterator[tuple[str, str]]:
    for line in head.decode("latin-1").split("\r\n")[1:]:
        name, _, value = line.partition(":")
        yield name.strip().lower(), value.strip()


def _http(status: str, body: bytes, *, with_body: bool = True, more: str = "") -> bytes:
    fields = f"{more}Content-Type: {_CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
    return f"HTTP/1.1 {status}\r\n{fields}\r\n".encode() + (body if with_body else b"")
