"""The hash slots of a Redis Cluster, and which primary has each."""

import random
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis import RedisError
from redis.asyncio import Redis
from redis.crc import key_slot
from redis.exceptions import ClusterDownError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError

from runner_service.addresses import TcpAddress
from runner_service.errors import text_of
from runner_service.storage.redis.address import RedisAddress


@dataclass
class Primaries:
    """The servers that take writes. In a cluster each of them has some of the hash slots."""

    nodes: Sequence[TcpAddress]
    slots: dict[int, TcpAddress] = field(default_factory=dict)
    """Empty, unless it is a cluster."""

    def node_of(self, key: str | bytes) -> TcpAddress:
        """Returns the primary that has a key. Raises ClusterDownError if there is none."""
        if not self.slots:
            return self.nodes[0]
        slot = key_slot(key.encode() if isinstance(key, str) else key)
        if slot not in self.slots:
            raise ClusterDownError(f"no server has the slot {slot}")
        return self.slots[slot]


async def primaries_of_cluster(address: RedisAddress, known: Collection[TcpAddress]) -> Primaries:
    """Asks one node after the other, those of the settings and those known from before, in random order."""
    nodes = list({*address.cluster, *known})
    random.shuffle(nodes)
    problems: list[str] = []
    for each in nodes:
        try:
            return _primaries(await _ranges(each, address), each)
        except (RedisError, OSError) as error:
            problems.append(f"{each}: {text_of(error)}")
    raise RedisConnectionError("; ".join(problems))


async def _ranges(node: TcpAddress, address: RedisAddress) -> list[Any]:
    async with Redis(**address.discovery_arguments(node)) as client:
        try:
            found: list[Any] = await client.execute_command("CLUSTER", "SLOTS")  # type: ignore[no-untyped-call]  # redis-py's
        except ResponseError as error:
            if "cluster support disabled" in str(error):
                raise ResponseError("it is no cluster: set REDIS_HOST instead of REDIS_CLUSTER_NODES") from error
            raise
    if not found:
        raise ClusterDownError("it has no slots: it does not belong to a cluster yet")
    return found


def _primaries(ranges: Sequence[Any], asked: TcpAddress) -> Primaries:
    slots: dict[int, TcpAddress] = {}
    for first, last, (host, port, *_), *_ in ranges:
        node = TcpAddress(host.decode() if host else asked.host, int(port))  # no host: that which was asked
        slots |= dict.fromkeys(range(int(first), int(last) + 1), node)
    return Primaries(sorted(set(slots.values())), slots)
