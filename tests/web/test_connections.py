"""Those who only hold connections of the page: there is a bound, and the others are answered."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from aiohttp import web
from tests.running import StartService, turn
from tests.web.test_security import ON, post, session, web_address

from runner_service.web.connections import MAX_CONNECTIONS, Connections

_SHORT_SECONDS = 0.3

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def served(
    limit: int = 10, idle_timeout: float = _SHORT_SECONDS
) -> AsyncIterator[tuple[Connections, int, asyncio.Event]]:
    """A server with a large response at /, and one that waits for the event at /wait."""
    go = asyncio.Event()

    @web.middleware
    async def around(request: web.Request, handler: Handler) -> web.StreamResponse:
        with connections.busy(request.transport):
            return await handler(request)

    async def large(_: web.Request) -> web.Response:
        return web.Response(body=bytes(20_000_000))

    async def wait(_: web.Request) -> web.Response:
        await go.wait()
        return web.Response(text="waited")

    application = web.Application(middlewares=[around])
    application.router.add_get("/", large)
    application.router.add_get("/wait", wait)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    assert runner.server
    connections = Connections(runner.server, limit=limit, idle_timeout=idle_timeout)
    server = await asyncio.get_running_loop().create_server(connections, "127.0.0.1", 0)
    try:
        yield connections, server.sockets[0].getsockname()[1], go
    finally:
        server.close()
        await runner.cleanup()


async def test_a_head_that_comes_byte_by_byte_ends_with_its_connection() -> None:
    async with served() as (connections, port, _), asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\nX: ")
        try:
            while not reader.at_eof():
                writer.write(b"x")
                await asyncio.sleep(0.02)
                if len(connections) == 0:
                    break
        except ConnectionError:
            pass
        assert len(connections) == 0
        writer.transport.abort()


async def test_a_response_that_nobody_reads_ends_with_its_connection() -> None:
    async with served() as (connections, port, _), asyncio.timeout(30):
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        while len(connections):
            await asyncio.sleep(0.01)
        writer.transport.abort()


async def test_the_longest_idle_connection_makes_room_and_a_busy_one_never_does() -> None:
    async with served(limit=2, idle_timeout=60) as (connections, port, go), asyncio.timeout(30):
        busy_reader, busy = await asyncio.open_connection("127.0.0.1", port)
        busy.write(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        while not connections._busy:  # nothing else shows it
            await asyncio.sleep(0.01)
        idle_reader, idle = await asyncio.open_connection("127.0.0.1", port)
        other_reader, other = await asyncio.open_connection("127.0.0.1", port)
        other.write(b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n")
        assert await idle_reader.read() == b"", "it had made room"
        while len(connections._busy) < 2:  # as above
            await asyncio.sleep(0.01)
        refused_reader, refused = await asyncio.open_connection("127.0.0.1", port)
        with suppress(ConnectionError):
            assert await refused_reader.read() == b"", "all others are busy"
        go.set()
        assert await busy_reader.readline() == b"HTTP/1.1 200 OK\r\n"
        assert await other_reader.readline() == b"HTTP/1.1 200 OK\r\n"
        for each in (busy, idle, other, refused):
            each.transport.abort()


async def test_the_page_answers_while_others_hold_more_connections_than_there_may_be(start: StartService) -> None:
    address = web_address(await start([turn("Hi.")], **ON))
    host, port = address.rsplit(":", 1)
    held = [await asyncio.open_connection(host, int(port)) for _ in range(MAX_CONNECTIONS + 20)]
    async with session() as http, asyncio.timeout(60):
        assert (await post(http, address, "/api/ListExecutions"))[0] == 200
        with suppress(ConnectionError):
            assert await held[0][0].read() == b""
    for _, writer in held:
        writer.transport.abort()
