"""Sends commands to the servers that have their keys, and repeats what failed for a reason that passes."""

import asyncio
from collections.abc import Sequence
from typing import Any

from redis import RedisError
from redis.asyncio import Redis
from redis.exceptions import (
    AskError,
    ClusterDownError,
    ConnectionError,  # noqa: A004  # redis-py's name for it
    MasterDownError,
    MovedError,
    NoScriptError,
    ReadOnlyError,
    TimeoutError,  # noqa: A004  # as above
    TryAgainError,
)

from runner_service.addresses import TcpAddress
from runner_service.storage.redis.address import RedisAddress
from runner_service.storage.redis.lua import Command, key_of, load_of
from runner_service.storage.redis.topology import Topology

Unit = Sequence[Command]
"""Commands that run one after the other on one connection, where the key of the first one is."""

_ASKING: Command = ["ASKING"]
FAILURES = (ConnectionError, TimeoutError, OSError, ReadOnlyError, ClusterDownError, MasterDownError)
"""The primaries are found again, since one of them is away or is none any more."""
_PASSING = (*FAILURES, AskError, TryAgainError, NoScriptError)
_MAX_FAILURES, _MAX_ATTEMPTS = 3, 8
_MIN_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS = 0.02, 0.2
_MAX_CONNECTIONS = 64


class Router:
    """Has a pool of connections to each primary. Belongs to the event loop."""

    def __init__(self, address: RedisAddress) -> None:
        self.topology = Topology(address)
        self._address = address
        self._clients: dict[TcpAddress, Redis] = {}
        self._version = 0
        self._calls = asyncio.Semaphore(_MAX_CONNECTIONS)  # the pool refuses what exceeds it

    async def run(self, units: Sequence[Unit]) -> list[list[Any]]:
        """Runs units and returns their replies, errors among them."""
        replies: list[list[Any]] = [[] for _ in units]
        pending: dict[int, TcpAddress | None] = dict.fromkeys(range(len(units)))
        failures = 0
        for attempt in range(_MAX_ATTEMPTS):
            nodes = await self._attempt(units, pending, replies)
            errors = {at: error for at in pending if (error := _error_of(replies[at]))}
            failures += any(isinstance(each, FAILURES) for each in errors.values())
            if not errors or failures == _MAX_FAILURES:
                break
            pending = {at: await self._destination(nodes[at], units[at], error) for at, error in errors.items()}
            if any(isinstance(each, (*FAILURES, TryAgainError)) for each in errors.values()):
                await asyncio.sleep(min(_MIN_BACKOFF_SECONDS * 2**attempt, _MAX_BACKOFF_SECONDS))
        return replies

    async def run_everywhere(self, command: Command) -> list[Any]:
        """Runs a command at every primary and returns its replies, errors among them. Raises RedisError, OSError."""
        nodes = (await self.topology.primaries()).nodes
        replies = await asyncio.gather(*(self._send(node, [[command]]) for node in nodes))
        if any(isinstance(reply, FAILURES) for ((reply,),) in replies):
            self.topology.doubt()
        return [reply for ((reply,),) in replies]

    def client(self, node: TcpAddress) -> Redis:
        """Returns the pool of connections to a server."""
        if node not in self._clients:
            arguments = self._address.arguments(node)
            self._clients[node] = Redis(**arguments, max_connections=_MAX_CONNECTIONS)
        return self._clients[node]

    async def close(self) -> None:
        """Closes all connections."""
        for client in self._clients.values():
            await client.aclose()

    async def _attempt(
        self, units: Sequence[Unit], pending: dict[int, TcpAddress | None], replies: list[list[Any]]
    ) -> dict[int, TcpAddress | None]:
        """Sends the pending units, sets their replies, and returns where they were sent."""
        groups: dict[tuple[TcpAddress, bool], list[int]] = {}
        try:
            primaries = await self.topology.primaries()
            await self._close_former(primaries.nodes)
            for at, asked in pending.items():
                node = asked or primaries.node_of(key_of(units[at][0]))
                groups.setdefault((node, asked is not None), []).append(at)
        except (RedisError, OSError) as error:
            for at in pending:
                replies[at] = [error] * len(units[at])
            return dict.fromkeys(pending)
        sent = await asyncio.gather(*(
            self._send(node, [units[at] for at in group], asking=asking) for (node, asking), group in groups.items()
        ))  # fmt: skip
        for group, received in zip(groups.values(), sent, strict=True):
            for at, reply in zip(group, received, strict=True):
                replies[at] = reply
        return {at: node for (node, _), group in groups.items() for at in group}

    async def _close_former(self, nodes: Sequence[TcpAddress]) -> None:
        """Closes connections to servers that are no primaries any more. What runs there is sent again."""
        if self._version != self.topology.version:
            self._version = self.topology.version
            for former in set(self._clients) - set(nodes):
                await self._clients.pop(former).aclose()

    async def _send(self, node: TcpAddress, units: Sequence[Unit], *, asking: bool = False) -> list[list[Any]]:
        commands = [
            each for unit in units for command in unit for each in ([_ASKING, command] if asking else [command])
        ]
        try:
            async with self._calls:
                found = await self._exchange(self.client(node), commands)
        except (RedisError, OSError) as error:
            return [[error] * len(unit) for unit in units]
        replies = iter(found[1::2] if asking else found)
        return [[next(replies) for _ in unit] for unit in units]

    async def _exchange(self, client: Redis, commands: Sequence[Command]) -> list[Any]:
        if len(commands) == 1:
            return [await client.execute_command(*commands[0])]  # type: ignore[no-untyped-call]  # redis-py's
        async with client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            return list(await pipeline.execute(raise_on_error=False))

    async def _destination(self, sent_to: TcpAddress | None, unit: Unit, error: Exception) -> TcpAddress | None:
        """Prepares another attempt after an error, and returns where it goes; None: to the primary with the key."""
        match error:
            case MovedError():
                self.topology.moved(error.slot_id, _target(error, sent_to))
            case AskError():
                return _target(error, sent_to)
            case NoScriptError() if sent_to:
                await self._send(sent_to, [[load_of(unit[0])]])
            case _ if isinstance(error, FAILURES):
                self.topology.doubt()
        return None


def _error_of(replies: Sequence[Any]) -> Exception | None:
    """Returns the first error after which a unit may be repeated."""
    return next((each for each in replies if isinstance(each, _PASSING)), None)


def _target(error: AskError, sent_to: TcpAddress | None) -> TcpAddress:
    return TcpAddress(error.host or (sent_to.host if sent_to else ""), error.port)
