"""A real Redis Cluster of local processes."""

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from redis.crc import key_slot
from tests.ports import free_port
from tests.scale.certificates import Certificates
from tests.scale.redis_server import RedisServer, redis_server

from runner_service.addresses import TcpAddress
from runner_service.storage.redis.address import RedisAddress

TLS_HOST = "localhost"
"""What the nodes of a cluster with TLS are called, as in their certificate."""
_SLOTS = 16384
_NODE_TIMEOUT_MS = 30_000  # where no node dies, a busy machine must not let one look so
SHORT_NODE_TIMEOUT_MS = 2000
"""Of a cluster in which a node dies."""
_TRIES_PER_MEETING = 50
_TLS_ARGUMENTS = ("--tls-cluster", "yes", "--cluster-announce-hostname", TLS_HOST)
_TLS_ENDPOINT = ("--cluster-preferred-endpoint-type", "hostname")


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

    def meet(self, other: "ClusterNode") -> None:
        """Begins to make another node known to this one and those that it knows."""
        self.run("CLUSTER", "MEET", "127.0.0.1", other.server.service_port, other.bus_port)

    def state(self) -> dict[str, str]:
        """What the node says of the cluster."""
        found: dict[str, str] = self.run("CLUSTER INFO")
        return found

    def names_all(self) -> bool:
        """Whether the node knows the host of each one with slots."""
        return b"?" not in {host for _, _, *nodes in self.run("CLUSTER", "SLOTS") for host, *_ in nodes}

    async def until_it_is(self, role: str) -> None:
        """Waits until the node is a `master`, or a `slave` that has everything."""
        async with asyncio.timeout(90):
            while (found := await asyncio.to_thread(self.run, "INFO", "replication"))["role"] != role or (
                found.get("master_link_status", "up") != "up"
            ):
                await asyncio.sleep(0.1)


class Cluster:
    """Three primaries with a third of the slots each."""

    def __init__(self, nodes: Sequence[ClusterNode], tls: Certificates | None) -> None:
        self.nodes = nodes
        self.members = list(nodes)
        """Replicas included."""
        self.tls = tls
        self._host = TLS_HOST if tls else "127.0.0.1"

    @property
    def addresses(self) -> tuple[TcpAddress, ...]:
        """Where the nodes are."""
        return tuple(TcpAddress(self._host, each.server.service_port) for each in self.nodes)

    @property
    def address(self) -> RedisAddress:
        """Where the storage finds it: a node that is away, and one that is there."""
        away = TcpAddress(self._host, free_port())
        ca_file = self.tls.ca_file if self.tls else None
        return RedisAddress(cluster=(away, self.addresses[0]), tls=self.tls is not None, tls_ca_file=ca_file)

    @property
    def variables(self) -> dict[str, str]:
        """The settings of a service that uses it, instead of those of a single server."""
        nodes = ",".join(map(str, self.addresses))
        tls = self.tls.variables if self.tls else {}
        return {"REDIS_HOST": "", "REDIS_PORT": "", "REDIS_CLUSTER_NODES": nodes, **tls}

    def node_of(self, key: str) -> ClusterNode:
        """The primary that has a key at the start."""
        return self.nodes[key_slot(key.encode()) * len(self.nodes) // _SLOTS]

    def flush(self) -> None:
        """Deletes everything."""
        for each in self.nodes:
            each.run("FLUSHALL")


class MovingSlot:
    """The slot of a key, which moves to the next primary."""

    def __init__(self, cluster: Cluster, key: str) -> None:
        self._nodes = cluster.nodes
        self._slot = key_slot(key.encode())
        self._source = cluster.node_of(key)
        self.target = cluster.nodes[(cluster.nodes.index(self._source) + 1) % len(cluster.nodes)]

    def begin(self) -> None:
        """Lets the nodes know."""
        self.target.run("CLUSTER", "SETSLOT", self._slot, "IMPORTING", self._source.id)
        self._source.run("CLUSTER", "SETSLOT", self._slot, "MIGRATING", self.target.id)

    def move(self, count: int = 1000) -> None:
        """Moves so many of its keys."""
        keys = [key.decode() for key in self._source.run("CLUSTER", "GETKEYSINSLOT", self._slot, count)]
        self._source.run("MIGRATE", "127.0.0.1", self.target.server.port, "", 0, 5000, "KEYS", *keys)

    def end(self) -> None:
        """Makes the target the one that has the slot."""
        others = [each for each in self._nodes if each not in {self._source, self.target}]
        for node in (self.target, self._source, *others):
            node.run("CLUSTER", "SETSLOT", self._slot, "NODE", self.target.id)


@asynccontextmanager
async def cluster_node(
    directory: Path, tls: Certificates | None = None, node_timeout_ms: int = _NODE_TIMEOUT_MS
) -> AsyncIterator[ClusterNode]:
    """Runs a node that knows no other one yet."""
    bus_port = free_port()
    arguments = ("--cluster-enabled", "yes", "--cluster-port", str(bus_port))
    arguments += ("--cluster-node-timeout", str(node_timeout_ms), *(_TLS_ARGUMENTS + _TLS_ENDPOINT if tls else ()))
    async with redis_server(directory, *arguments, tls=tls) as server:
        yield ClusterNode(server, bus_port)


@asynccontextmanager
async def redis_cluster(
    directory: Path, primaries: int = 3, *, tls: Certificates | None = None, node_timeout_ms: int = _NODE_TIMEOUT_MS
) -> AsyncIterator[Cluster]:
    """Runs a cluster without replicas, until the context ends."""
    async with AsyncExitStack() as stack:
        started = [cluster_node(directory / str(each), tls, node_timeout_ms) for each in range(primaries)]
        nodes = [await stack.enter_async_context(each) for each in started]
        for at, node in enumerate(nodes):
            node.run("CLUSTER", "SET-CONFIG-EPOCH", at + 1)
            first, end = (-(-_SLOTS * each // primaries) for each in (at, at + 1))
            node.run("CLUSTER", "ADDSLOTSRANGE", first, end - 1)
            nodes[0].meet(node)
        await until_it_agrees(nodes)
        yield Cluster(nodes, tls)


@asynccontextmanager
async def replica_of(cluster: Cluster, primary: ClusterNode, directory: Path) -> AsyncIterator[ClusterNode]:
    """Runs a replica of a node, and waits until it has everything."""
    async with cluster_node(directory, cluster.tls, SHORT_NODE_TIMEOUT_MS) as node:
        primary.meet(node)
        cluster.members.append(node)
        await until_it_agrees(cluster.members)
        node.run("CLUSTER", "REPLICATE", primary.id)
        await node.until_it_is("slave")
        yield node


async def until_it_agrees(nodes: Sequence[ClusterNode], seconds: float = 60.0) -> None:
    """Waits until all nodes know each other, and that all slots are served."""
    async with asyncio.timeout(seconds):
        for tries in itertools.count(1):
            if all(_agrees(each, len(nodes)) for each in nodes):
                return
            await asyncio.sleep(0.1)
            if tries % _TRIES_PER_MEETING == 0:  # one that a node did not answer in time is forgotten
                for each in nodes[1:]:
                    nodes[0].meet(each)


def _agrees(node: ClusterNode, nodes: int) -> bool:
    state = node.state()
    return (state["cluster_state"], int(state["cluster_known_nodes"])) == ("ok", nodes) and node.names_all()
