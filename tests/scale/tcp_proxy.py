"""A TCP proxy that can hold what goes through, drop it, and lead elsewhere, as the address of a managed Redis does."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

_CHUNK_BYTES = 64 * 1024


class TcpProxy:
    """Leads from its port to another one of this machine. Belongs to the event loop."""

    def __init__(self, target_port: int) -> None:
        self._target_port = target_port
        self._writers: set[asyncio.StreamWriter] = set()
        self._open = asyncio.Event()
        self._open.set()
        self.port = 0

    def hold(self) -> None:
        """Lets nothing through from now on; connections stay."""
        self._open.clear()

    def switch(self, target_port: int) -> None:
        """Drops all connections, and leads to another port from now on."""
        self._target_port = target_port
        self._open.set()
        self.drop()

    def drop(self) -> None:
        """Drops all connections."""
        for writer in self._writers:
            writer.transport.abort()

    def add(self, writer: asyncio.StreamWriter) -> None:
        """Has a connection dropped with the others, though it leads nowhere yet."""
        self._writers.add(writer)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection that was added."""
        both = {writer}
        try:
            there, to_there = await asyncio.open_connection("127.0.0.1", self._target_port)
            both.add(to_there)
            self._writers.add(to_there)
            await asyncio.gather(self._pump(reader, to_there), self._pump(there, writer))
        except OSError:  # nobody listens there
            return
        finally:
            self._writers -= both
            for each in both:
                each.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(_CHUNK_BYTES):
                await self._open.wait()
                writer.write(data)
                await writer.drain()
        writer.close()


@asynccontextmanager
async def tcp_proxy(target_port: int) -> AsyncIterator[TcpProxy]:
    """Runs a proxy until the context ends."""
    proxy = TcpProxy(target_port)
    connections: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        proxy.add(writer)
        connection = asyncio.create_task(proxy.serve(reader, writer))
        connections.add(connection)
        connection.add_done_callback(connections.discard)

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await asyncio.sleep(0)  # for a connection that is just being accepted
        while connections:
            for each in connections:
                each.cancel()
            await asyncio.gather(*connections, return_exceptions=True)
        proxy.drop()
