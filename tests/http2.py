"""As much of HTTP/2 as a test needs that sends what no client of grpc would."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

DATA, HEADERS, SETTINGS, PING, GOAWAY = 0, 1, 4, 6, 7
ACK = 1
MAX_CONCURRENT_STREAMS = 3

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_END_HEADERS = 4


class Frame(NamedTuple):
    kind: int
    flags: int
    body: bytes


def frame(kind: int, body: bytes = b"", *, flags: int = 0, stream: int = 0) -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def call_begun(path: str, authority: str = "localhost") -> bytes:
    """The headers of a call on stream 1, whose request has yet to come."""
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": authority,
        "content-type": "application/grpc",
        "te": "trailers",
    }
    return frame(HEADERS, b"".join(map(_literal, fields, fields.values())), flags=_END_HEADERS, stream=1)


def _literal(name: str, value: str) -> bytes:
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


class Connection:
    """An open connection: what is sent is up to the test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.send = writer.write

    async def next(self, kind: int) -> Frame | None:
        """The next frame of that kind; None when the server hangs up before."""
        try:
            while True:
                head = await self._reader.readexactly(9)
                body = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
                if head[3] == kind:
                    return Frame(head[3], head[4], body)
        except (asyncio.IncompleteReadError, ConnectionError):
            return None


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Connection]:
    host, _, port = address.rpartition(":")
    reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    writer.write(PREFACE + frame(SETTINGS))
    try:
        async with asyncio.timeout(60):
            yield Connection(reader, writer)
    finally:
        writer.close()
