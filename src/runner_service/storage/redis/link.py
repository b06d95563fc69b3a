"""A bare connection to Redis: bytes go out, hiredis parses what comes back, with nothing in between."""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any

import hiredis

from runner_service.addresses import TcpAddress
from runner_service.storage.redis.address import CONNECT_TIMEOUT_SECONDS, TIMEOUT_SECONDS, RedisAddress
from runner_service.storage.redis.lua import Argument

FAILURES = (OSError, TimeoutError, hiredis.HiredisError)
"""What a link raises when Redis cannot be used."""


class Link(asyncio.Protocol):
    """One connection, for one exchange at a time, or to listen. Open it with `open_link`."""

    def __init__(self) -> None:
        self.is_lost = False
        self.has_answered = False
        self._loop = asyncio.get_running_loop()
        self._parser = hiredis.Reader()
        self._transport: asyncio.Transport | None = None
        self._replies: list[Any] = []
        self._wanted = 0
        self._waiter: asyncio.Future[list[Any]] | None = None
        self._on_reply: Callable[[Any], None] = self._collect
        self._heard = self._loop.time()
        self._deadline = 0.0
        self._timer: asyncio.TimerHandle | None = None

    async def exchange(self, data: bytes, replies: int) -> list[Any]:
        """Sends commands and returns their replies, errors among them. Raises one of `FAILURES`."""
        if self._transport is None or self.is_lost:
            raise ConnectionError("Redis has closed the connection")
        self._replies, self._wanted = [], replies
        waiter: asyncio.Future[list[Any]] = self._loop.create_future()
        self._waiter = waiter
        self._deadline = self._loop.time() + TIMEOUT_SECONDS
        if self._timer is None:  # set once, and looked at when it fires: one for each exchange costs more
            self._timer = self._loop.call_at(self._deadline, self._check_deadline)
        self._transport.write(data)
        try:
            return await waiter
        finally:
            self._waiter = None

    def listen(self, on_reply: Callable[[Any], None]) -> asyncio.Future[list[Any]]:
        """Passes every reply on from now on. Returns a future that gets one of `FAILURES` when the connection ends."""
        self._on_reply = on_reply
        self._waiter = self._loop.create_future()
        if self.is_lost:
            self._fail(ConnectionError("Redis has closed the connection"))
        return self._waiter

    def send(self, data: bytes) -> None:
        """Sends commands whose replies go to the listener."""
        if self._transport and not self.is_lost:
            self._transport.write(data)

    @property
    def silent_seconds(self) -> float:
        """How long nothing has come."""
        return self._loop.time() - self._heard

    def abort(self) -> None:
        """Closes the connection at once."""
        self.is_lost = True
        if self._timer:
            self._timer.cancel()
        if self._transport:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Implements `asyncio.Protocol`."""
        self._transport = transport  # type: ignore[assignment]  # that of a stream

    def data_received(self, data: bytes) -> None:
        """Implements `asyncio.Protocol`."""
        self.has_answered = True
        self._heard = self._loop.time()
        try:
            self._parser.feed(data)
            while (reply := self._parser.gets()) is not False:
                self._on_reply(reply)
        except hiredis.HiredisError as error:
            self._fail(error)

    def _collect(self, reply: Any) -> None:
        self._replies.append(reply)
        if self._waiter and len(self._replies) >= self._wanted and not self._waiter.done():
            self._waiter.set_result(self._replies)

    def connection_lost(self, error: Exception | None) -> None:
        """Implements `asyncio.Protocol`."""
        self.is_lost = True
        self._fail(error or ConnectionError("Redis has closed the connection"))

    def _check_deadline(self) -> None:
        self._timer = None
        if self._waiter is None:
            return
        if self._loop.time() < self._deadline:
            self._timer = self._loop.call_at(self._deadline, self._check_deadline)
        else:
            self._fail(TimeoutError(f"no reply within {TIMEOUT_SECONDS:g} s"))

    def _fail(self, error: Exception) -> None:
        if self._waiter and not self._waiter.done():
            self._waiter.set_exception(error)


async def open_link(address: RedisAddress, node: TcpAddress) -> Link:
    """Connects to a server and logs in. Raises one of `FAILURES`."""
    context = ssl.create_default_context(cafile=address.tls_ca_file) if address.tls else None
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(CONNECT_TIMEOUT_SECONDS):
        _, link = await loop.create_connection(Link, *node, ssl=context)
        try:
            await _log_in(link, address)
        except BaseException:
            link.abort()
            raise
    return link


async def _log_in(link: Link, address: RedisAddress) -> None:
    if address.password:
        login = (address.user, address.password) if address.user else (address.password,)
        (reply,) = await link.exchange(pack("AUTH", *login), 1)
        if isinstance(reply, hiredis.ReplyError):
            raise ConnectionError(str(reply))


def pack(*command: Argument) -> bytes:
    """Returns a command as Redis reads it."""
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # its stub means tuples of one
    return packed
