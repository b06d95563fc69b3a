"""Which server a command goes to: that of REDIS_HOST, the primary that sentinels know, or the one with the slot."""

import asyncio

from redis import RedisError
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from runner_service.addresses import TcpAddress
from runner_service.errors import text_of
from runner_service.storage.redis.address import RedisAddress, Sentinels
from runner_service.storage.redis.cluster import Primaries, primaries_of_cluster

_DISCOVERY_TIMEOUT_SECONDS = 4.0


class Topology:
    """Finds the primaries when they are needed, and again when in doubt. Belongs to the event loop."""

    def __init__(self, address: RedisAddress) -> None:
        self._address = address
        self._found: Primaries | None = None
        self._finding = asyncio.Lock()
        self._nodes: frozenset[TcpAddress] = frozenset()
        self.version = 0
        """Changes with the set of primaries."""

    async def primaries(self) -> Primaries:
        """Returns the primaries. Raises RedisError, OSError, TimeoutError."""
        if self._found is None:
            async with self._finding:
                if self._found is None:
                    async with asyncio.timeout(_DISCOVERY_TIMEOUT_SECONDS):
                        self._found = await self._find()
                    if self._nodes != (nodes := frozenset(self._found.nodes)):
                        self.version += 1
                        self._nodes = nodes
        return self._found

    def doubt(self) -> None:
        """Has the primaries found again: one of them has failed, or is none any more."""
        self._found = None

    def moved(self, slot: int, node: TcpAddress) -> None:
        """Takes the word of a server that another one has a slot."""
        if self._found:
            self._found.slots[slot] = node
            if node not in self._found.nodes:
                self._found = None

    async def _find(self) -> Primaries:
        if self._address.sentinels:
            return Primaries([await _primary_of(self._address, self._address.sentinels)])
        if self._address.cluster:
            return await primaries_of_cluster(self._address, self._nodes)
        return Primaries([TcpAddress(self._address.host, self._address.port)])


async def _primary_of(address: RedisAddress, sentinels: Sentinels) -> TcpAddress:
    """Asks the sentinels one after the other. What one names must say itself that it is a primary."""
    problems: list[str] = []
    for each in sentinels.nodes:
        try:
            named = await _named_by(each, address, sentinels.master)
            if named and await _is_primary(named, address):
                return named
        except (RedisError, OSError) as error:
            problems.append(f"{each}: {text_of(error)}")
        else:
            problems.append(f"{each}: {f'{named} is a replica' if named else 'does not know it'}")
    raise RedisConnectionError(f"no primary found for {sentinels.master!r}: {'; '.join(problems)}")


async def _named_by(sentinel: TcpAddress, address: RedisAddress, master: str) -> TcpAddress | None:
    async with Redis(host=sentinel.host, port=sentinel.port, **address.sentinel_arguments()) as client:
        try:
            found = await client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", master)  # type: ignore[no-untyped-call]  # redis-py's
        except ResponseError as error:
            if "unknown command" in str(error):
                raise ResponseError("it is no sentinel: set REDIS_HOST instead of REDIS_SENTINELS") from error
            raise
    return TcpAddress(found[0].decode(), int(found[1])) if found else None


async def _is_primary(node: TcpAddress, address: RedisAddress) -> bool:
    async with Redis(**address.arguments(node)) as client:
        return str((await client.info("replication"))["role"]) == "master"
