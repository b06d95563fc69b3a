"""The page that Prometheus reads: as much of HTTP/1.1 as one GET takes."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from runner_service.addresses import TcpAddress
from runner_service.server.binding import BindError

_PATH = "/metrics"
_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_PATIENCE = 10.0
_LONGEST_REQUEST = 16 * 1024
_AT_ONCE = 8

Render = Callable[[], bytes]


@asynccontextmanager
async def metrics_page(wanted: TcpAddress, render: Render) -> AsyncIterator[TcpAddress]:
    """Serves what `render` returns, called in a thread, until the context ends. Gives the address with its real port.

    Raises:
        BindError: it cannot be listened on.
    """
    page = _Page(render)
    try:
        server = await asyncio.start_server(page.answer, wanted.host, wanted.port, limit=_LONGEST_REQUEST)
    except OSError as error:
        raise BindError(f"METRICS_ADDRESS {wanted} cannot be listened on: {error.strerror}") from error
    try:
        yield TcpAddress(wanted.host, server.sockets[0].getsockname()[1])
    finally:
        server.close()
        await page.close()


class _Page:
    """Answers one request of each connection, and knows the connections."""

    def __init__(self, render: Render) -> None:
        self._render = render
        self._rendering = asyncio.Lock()
        self._open: set[asyncio.Task[None]] = set()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves a connection. Whoever is slow, or sends what makes no sense, is cut off."""
        task = asyncio.current_task()
        if task is None or len(self._open) >= _AT_ONCE:
            writer.close()
            return
        self._open.add(task)
        try:
            async with asyncio.timeout(_PATIENCE):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await self._response(head))
                await writer.drain()
        except (TimeoutError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass
        finally:
            self._open.discard(task)
            writer.close()

    async def close(self) -> None:
        """Cuts off whoever is still there."""
        for task in list(self._open):
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def _response(self, head: bytes) -> bytes:
        method, _, rest = head.partition(b" ")
        path = rest.split(b" ", 1)[0].split(b"?", 1)[0]
        if path != _PATH.encode():
            return _http("404 Not Found", f"metrics are at {_PATH}\n".encode())
        if method not in {b"GET", b"HEAD"}:
            return _http("405 Method Not Allowed", b"")
        async with self._rendering:
            body = await asyncio.to_thread(self._render)
        return _http("200 OK", body, with_body=method == b"GET")


def _http(status: str, body: bytes, *, with_body: bool = True) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Type: {_TYPE}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    return head.encode() + (body if with_body else b"")
