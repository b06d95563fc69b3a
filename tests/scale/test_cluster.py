"""A Redis Cluster: executions are in the slots of their ids, and what replicas share in one more."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis.crc import key_slot
from tests.check.test_checks import checks_of
from tests.emulator import running_emulator
from tests.running import StartProcess, one, text_of, turn
from tests.scale.cluster import Cluster, redis_cluster, replica_of
from tests.scale.redis_server import needs_redis
from tests.scale.replicas import Deployment, kind, resumed
from tests.storage.test_conformance import execution

from runner_service.storage.event_log import LogError, NewEvent
from runner_service.storage.ownership import UnsuitableStorageError
from runner_service.storage.redis.address import RedisAddress
from runner_service.storage.redis.backend import redis_storage
from runner_service.storage.redis.keys import ExecutionKeys, deployment_keys
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

pytestmark = [needs_redis, pytest.mark.long, pytest.mark.timeout(180)]

SLOW = turn(" ".join(str(number) for number in range(60)), delay=0.2)
SHARED = deployment_keys("default").leases


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with redis_cluster(tmp_path / "redis") as cluster:
        yield cluster


def id_at(cluster: Cluster, node: int, prefix: str = "e") -> str:
    """Returns an execution id whose keys are at a node."""
    names = (f"{prefix}{number}" for number in range(1000))
    return next(each for each in names if cluster.node_of(ExecutionKeys(each).record) is cluster.nodes[node])


async def test_executions_at_all_nodes_run_are_watched_taken_over_listed_and_deleted(
    cluster: Cluster, start_process: StartProcess, tmp_path: Path
) -> None:
    ids = [id_at(cluster, node) for node in range(3)]
    async with running_emulator(tmp_path / "cloud") as cloud:
        deployment = Deployment(cluster.nodes[0].server, cloud, start_process, tmp_path)
        await deployment.start([SLOW], count=2, **cluster.variables)
        for each in ids:
            await deployment.begin(0, each, until="text_delta", session_id=f"s-{each}")
        watchers = [deployment.watch(1, execution_id=each) for each in ids]
        for watcher in watchers:
            await watcher.until(kind("text_delta"))
        await deployment.kill(0)
        for watcher in watchers:
            await watcher.until(resumed)
            events = await watcher.ended()
            assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
            assert text_of(events).endswith(str(SLOW["text"])), "after the half sentence, which is discarded"
        stub = deployment.replicas[1].stub
        listed = (await stub.ListExecutions(runner_pb2.ListExecutionsRequest())).executions
        assert {each.execution_id for each in listed} == set(ids)
        for each in ids:
            await stub.DeleteExecution(runner_pb2.DeleteExecutionRequest(execution_id=each))
        assert not (await stub.ListExecutions(runner_pb2.ListExecutionsRequest())).executions
    for node in cluster.nodes:
        assert not [key for key in node.run("KEYS", "*") if any(f"{{{each}}}".encode() in key for each in ids)]


async def test_the_service_goes_on_when_a_node_dies_and_its_replica_is_promoted(
    cluster: Cluster, start_process: StartProcess, tmp_path: Path
) -> None:
    primary = cluster.node_of(SHARED)
    dying = cluster.nodes.index(primary)
    ids = [id_at(cluster, dying), id_at(cluster, (dying + 1) % 3)]
    async with (
        replica_of(cluster, primary, tmp_path / "replica") as replica,
        running_emulator(tmp_path / "cloud") as cloud,
    ):
        deployment = Deployment(primary.server, cloud, start_process, tmp_path)
        await deployment.start([SLOW], count=2, **cluster.variables)
        for each in ids:
            await deployment.begin(0, each, until="text_delta")
        watchers = [deployment.watch(1, execution_id=each) for each in ids]
        for watcher in watchers:
            await watcher.until(kind("text_delta"))
        primary.server.kill()
        async with asyncio.timeout(40):
            while replica.run("INFO", "replication")["role"] != "master":
                await asyncio.sleep(0.1)
        for watcher in watchers:
            events = await watcher.ended()
            assert not any(map(resumed, events)), "nobody took over"
            assert text_of(events) == SLOW["text"]
        await deployment.begin(1, "after", until="finished")


async def test_a_slot_that_is_moved_to_another_node_keeps_its_execution(cluster: Cluster) -> None:
    source, target, name = cluster.nodes[0], cluster.nodes[1], id_at(cluster, 0)
    slot = key_slot(ExecutionKeys(name).record.encode())
    async with redis_storage(cluster.address) as storage:
        await storage.replicas.reach()
        log = storage.log
        await log.append([execution(name), NewEvent(name, 1, b"<1>")])
        target.run("CLUSTER", "SETSLOT", slot, "IMPORTING", source.id)
        source.run("CLUSTER", "SETSLOT", slot, "MIGRATING", target.id)
        keys = source.run("CLUSTER", "GETKEYSINSLOT", slot, 100)
        source.run("MIGRATE", "127.0.0.1", target.server.port, "", 0, 5000, "KEYS", *(key.decode() for key in keys))
        assert await log.get(name), "while the keys are at the other node already"
        for node in (target, source, cluster.nodes[2]):
            node.run("CLUSTER", "SETSLOT", slot, "NODE", target.id)
        async with asyncio.timeout(20):
            while True:
                try:
                    await log.append([NewEvent(name, 2, b"<2>")])
                    break
                except LogError:  # as the writer of the log does
                    await asyncio.sleep(0.1)
        assert (await log.read(name, 0, 1000)).frames == b"<1><2>"
        assert target.run("EXISTS", ExecutionKeys(name).record)


async def test_check_and_start_tell_what_is_wrong_with_a_cluster(cluster: Cluster, tmp_path: Path) -> None:
    cloud = {"MODE": "cloud", "DAYTONA_API_KEY": "dtn_k", "STIGMER_API_KEY": "k", **cluster.variables}
    assert (await checks_of(tmp_path, **cloud))["REDIS_CLUSTER_NODES"].status == "ok"
    cluster.nodes[2].run("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
    check = (await checks_of(tmp_path, **cloud))["REDIS_CLUSTER_NODES"]
    assert (check.status, "noeviction" in check.text) == ("fail", True), "every primary is asked"
    single = {"REDIS_CLUSTER_NODES": "", "REDIS_HOST": "127.0.0.1", "REDIS_PORT": str(cluster.addresses[0].port)}
    check = (await checks_of(tmp_path, **cloud | single))["REDIS_HOST"]
    assert (check.status, "set REDIS_CLUSTER_NODES" in check.text) == ("fail", True)
    async with redis_storage(RedisAddress("127.0.0.1", cluster.addresses[0].port)) as storage:
        with pytest.raises(UnsuitableStorageError, match="belongs to a cluster"):
            await storage.replicas.reach()
