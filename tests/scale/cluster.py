"""A real Redis Cluster of local processes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from redis.crc import key_slot
from tests.ports import free_port
from tests.scale.redis_server import RedisServer, redis_server

from runner_service.addresses import TcpAddress
from runner_service.storage.redis.address import RedisAddress

_SLOTS = 16384
_NODE_TIMEOUT_MS = 2000


class ClusterNode:
    """A node, as its servers know it."""

    def __init__(self, server: RedisServer, bus_port: int) -> None:
        self.server = server
        self.bus_port = bus_port
        self.id: str = self.run("CLUSTER", "MYID").decode()

    def run(self, *command: str | int) -> Any:
        """Runs a command at the node."""
        with self.server.client as client:
            return client.execute_command(*command)

    def state(self) -> dict[str, str]:
        """What the node says of the cluster."""
        found: dict[str, str] = self.run("CLUSTER INFO")
        return found


class Cluster:
    """Three primaries with a third of the slots each."""

    def __init__(self, nodes: Sequence[ClusterNode]) -> None:
        self.nodes = nodes

    @property
    def addresses(self) -> tuple[TcpAddress, ...]:
        """Where the nodes are."""
        return tuple(TcpAddress("127.0.0.1", each.server.port) for each in self.nodes)

    @property
    def address(self) -> RedisAddress:
        """Where the storage finds it: a node that is away, and one that is there."""
        return RedisAddress(cluster=(TcpAddress("127.0.0.1", free_port()), self.addresses[0]))

    @property
    def variables(self) -> dict[str, str]:
        """The settings of a service that uses it, instead of those of a single server."""
        return {"REDIS_HOST": "", "REDIS_PORT": "", "REDIS_CLUSTER_NODES": ",".join(map(str, self.addresses))}

    def node_of(self, key: str) -> ClusterNode:
        """The primary that has a key at the start."""
        return self.nodes[key_slot(key.encode()) * len(self.nodes) // _SLOTS]

    def flush(self) -> None:
        """Deletes everything."""
        for each in self.nodes:
            each.run("FLUSHALL")


@asynccontextmanager
async def cluster_node(directory: Path) -> AsyncIterator[ClusterNode]:
    """Runs a node that knows no other one yet."""
    bus_port = free_port()
    arguments = ("--cluster-enabled", "yes", "--cluster-port", str(bus_port))
    timeout = ("--cluster-node-timeout", str(_NODE_TIMEOUT_MS))
    async with redis_server(directory, *arguments, *timeout) as server:
        yield ClusterNode(server, bus_port)


@asynccontextmanager
async def redis_cluster(directory: Path, primaries: int = 3) -> AsyncIterator[Cluster]:
    """Runs a cluster without replicas, until the context ends."""
    async with AsyncExitStack() as stack:
        nodes = [await stack.enter_async_context(cluster_node(directory / str(each))) for each in range(primaries)]
        for at, node in enumerate(nodes):
            node.run("CLUSTER", "SET-CONFIG-EPOCH", at + 1)
            first, end = (-(-_SLOTS * each // primaries) for each in (at, at + 1))
            node.run("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
            nodes[0].run("CLUSTER", "MEET", "127.0.0.1", node.server.port, node.bus_port)
        await until_it_agrees(nodes)
        yield Cluster(nodes)


@asynccontextmanager
async def replica_of(cluster: Cluster, primary: ClusterNode, directory: Path) -> AsyncIterator[ClusterNode]:
    """Runs a replica of a node, and waits until it has everything."""
    async with cluster_node(directory) as node:
        primary.run("CLUSTER", "MEET", "127.0.0.1", node.server.port, node.bus_port)
        await until_it_agrees([*cluster.nodes, node])
        node.run("CLUSTER", "REPLICATE", primary.id)
        async with asyncio.timeout(40):
            while node.run("INFO", "replication")["role"] != "slave" or not await _is_up(node):
                await asyncio.sleep(0.1)
        yield node


async def _is_up(node: ClusterNode) -> bool:
    found = await asyncio.to_thread(node.run, "INFO", "replication")
    return bool(found.get("master_link_status") == "up")


async def until_it_agrees(nodes: Sequence[ClusterNode], seconds: float = 60.0) -> None:
    """Waits until all nodes know each other, and that all slots are served."""
    async with asyncio.timeout(seconds):
        while not all(
            (each.state()["cluster_state"], int(each.state()["cluster_known_nodes"])) == ("ok", len(nodes))
            for each in nodes
        ):
            await asyncio.sleep(0.1)
