"""The egress proxy of one execution: CONNECT and absolute-form HTTP, to allowed hosts only. TLS is not intercepted."""

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple
from urllib.parse import urlsplit

from runner_service.executors.egress.policy import EgressDeniedError, EgressPolicy

logger = logging.getLogger(__name__)

_MAX_HEAD_BYTES = 64 * 1024
_MAX_CONNECTIONS = 256
_HEAD_TIMEOUT_SECONDS = 30.0
_CONNECT_TIMEOUT_SECONDS = 10.0
_IDLE_TIMEOUT_SECONDS = 900.0
_READ_BYTES = 64 * 1024
_DROPPED_HEADERS = {b"connection", b"host", b"keep-alive", b"proxy-authorization", b"proxy-connection", b"upgrade"}
_HIGHEST_PORT = 65535

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")
_DIRECT = "localhost,127.0.0.1,::1"


def proxy_environment(port: int) -> dict[str, str]:
    """Returns the variables that point programs to a proxy on the loopback of their cell."""
    url = f"http://127.0.0.1:{port}"
    names = [*VARIABLES, *(name.lower() for name in VARIABLES)]
    return {**dict.fromkeys(names, url), "NO_PROXY": _DIRECT, "no_proxy": _DIRECT, "NODE_USE_ENV_PROXY": "1"}


class _Request(NamedTuple):
    host: str
    port: int
    head: bytes
    """What goes to the host first; empty for a tunnel."""


class _RefusedError(Exception):
    def __init__(self, status: str, text: str) -> None:
        super().__init__(text)
        self.status = status
        self.text = text


@asynccontextmanager
async def egress_proxy(listener: socket.socket, policy: EgressPolicy) -> AsyncIterator[None]:
    """Serves `listener`, which may be of another network namespace, until the context ends; closes it then."""
    connections: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        is_full = len(connections) >= _MAX_CONNECTIONS
        task = asyncio.create_task(_serve(reader, writer, policy, is_full=is_full), name="egress-connection")
        connections.add(task)
        task.add_done_callback(connections.discard)

    listener.setblocking(False)
    server = await asyncio.start_server(accept, sock=listener, limit=_MAX_HEAD_BYTES)
    try:
        yield
    finally:
        server.close()
        for task in connections:
            task.cancel()
        if connections:
            await asyncio.wait(connections)


async def _serve(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, policy: EgressPolicy, *, is_full: bool
) -> None:
    try:
        request = await _read_request(reader, is_full=is_full)
        upstream = await _connect(request, policy)
        try:
            if request.head:
                upstream[1].write(request.head)
            else:
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await _relay((reader, writer), upstream)
        finally:
            upstream[1].close()
    except _RefusedError as refused:
        writer.write(_refusal(refused))
        with contextlib.suppress(OSError):
            await writer.drain()
    except (OSError, EOFError) as error:
        logger.debug("egress_connection_ended error=%s", error)
    finally:
        writer.close()


async def _read_request(reader: asyncio.StreamReader, *, is_full: bool) -> _Request:
    if is_full:
        raise _RefusedError("503 Service Unavailable", f"more than {_MAX_CONNECTIONS} connections at once")
    try:
        async with asyncio.timeout(_HEAD_TIMEOUT_SECONDS):
            head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.LimitOverrunError as error:
        raise _RefusedError("431 Request Header Fields Too Large", "the head of the request is too large") from error
    except TimeoutError as error:
        raise _RefusedError("408 Request Timeout", "the request did not come in time") from error
    return _parse(head)


def _parse(head: bytes) -> _Request:
    first, *headers = head.removesuffix(b"\r\n\r\n").split(b"\r\n")
    if any(byte in line for line in (first, *headers) for byte in (b"\r", b"\n", b"\0")):
        raise _RefusedError("400 Bad Request", "a line of the head holds a control character")  # a server may split it
    try:
        method, target, version = first.decode("ascii").split(" ")
        is_tunnel = method == "CONNECT"
        parts = urlsplit(f"//{target}" if is_tunnel else target)
        host, port = parts.hostname, parts.port or (443 if is_tunnel else 80)
    except ValueError as error:
        raise _RefusedError("400 Bad Request", "the request line cannot be understood") from error
    if not host or not version.startswith("HTTP/1.") or not 0 < port <= _HIGHEST_PORT:
        raise _RefusedError("400 Bad Request", "this is a proxy: it needs CONNECT, or an absolute http:// URL")
    if is_tunnel:
        return _Request(host, port, b"")
    if parts.scheme != "http":
        raise _RefusedError("400 Bad Request", "only http:// URLs can be asked for; use CONNECT for others")
    path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return _Request(host, port, _origin_head(method, path, parts.netloc.rpartition("@")[2], headers))


def _origin_head(method: str, path: str, authority: str, headers: Sequence[bytes]) -> bytes:
    """Returns the head for the host itself, named as the URL does, whatever the client's own Host header says."""
    kept = [line for line in headers if line.partition(b":")[0].strip().lower() not in _DROPPED_HEADERS]
    lines = [f"{method} {path} HTTP/1.1".encode("ascii"), f"Host: {authority}".encode("ascii"), *kept]
    return b"\r\n".join([*lines, b"Connection: close", b"", b""])


async def _connect(request: _Request, policy: EgressPolicy) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    where = f"{request.host}:{request.port}"
    try:
        addresses = await policy.addresses(request.host, request.port)
    except EgressDeniedError as error:
        raise _RefusedError("403 Forbidden", f"{error} (confinement)") from error
    except (OSError, UnicodeError) as error:
        raise _RefusedError("502 Bad Gateway", f"the name of {where} cannot be looked up") from error
    for address in addresses:
        with contextlib.suppress(OSError):
            async with asyncio.timeout(_CONNECT_TIMEOUT_SECONDS):
                return await asyncio.open_connection(address, request.port, limit=_MAX_HEAD_BYTES)
    raise _RefusedError("502 Bad Gateway", f"{where} does not answer")


async def _relay(
    client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    upstream: tuple[asyncio.StreamReader, asyncio.StreamWriter],
) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_copy(client[0], upstream[1]))
        tasks.create_task(_copy(upstream[0], client[1]))


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Copies until the end of the source, which is passed on; an error of either side ends this direction."""
    with contextlib.suppress(OSError):
        while True:
            async with asyncio.timeout(_IDLE_TIMEOUT_SECONDS):
                data = await source.read(_READ_BYTES)
            if not data:
                break
            target.write(data)
            await target.drain()
    with contextlib.suppress(OSError):
        if target.can_write_eof():
            target.write_eof()


def _refusal(refused: _RefusedError) -> bytes:
    body = f"{refused.text}\n".encode("utf-8", "replace")
    head = f"HTTP/1.1 {refused.status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {len(body)}"
    return f"{head}\r\nConnection: close\r\n\r\n".encode() + body
