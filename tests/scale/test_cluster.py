"""A Redis Cluster: executions are in the slots of their ids, and what replicas share in one more."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from tests.check.test_checks import checks_of
from tests.emulator import running_emulator
from tests.running import StartProcess, one, text_of, turn
from tests.scale.certificates import certificates
from tests.scale.cluster import SHORT_NODE_TIMEOUT_MS, TLS_HOST, Cluster, MovingSlot, redis_cluster, replica_of
from tests.scale.redis_server import needs_redis
from tests.scale.replicas import Deployment, kind, resumed
from tests.scale.test_redis_faults import ready
from tests.scale.test_sentinel import start_until
from tests.storage.test_conformance import execution
from tests.storage.test_shared_queue import Replica

from runner_service.storage.event_log import LogError, NewEvent, Rejection
from runner_service.storage.ownership import Claim, UnsuitableStorageError
from runner_service.storage.redis.address import RedisAddress
from runner_service.storage.redis.backend import RedisStorage, redis_storage
from runner_service.storage.redis.keys import ExecutionKeys, deployment_keys
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

pytestmark = [needs_redis, pytest.mark.long]

SLOW = turn(" ".join(str(number) for number in range(60)), delay=0.2)
SHARED = deployment_keys("default").leases
UNREPLICATED_SECONDS = 1.5
"""For how long a node has no replica before it dies."""


@pytest.fixture
async def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Cluster]:
    """With the options of `redis_cluster` that the parameter gives."""
    options = dict(getattr(request, "param", {}))
    if options.pop("has_tls", False):
        options["tls"] = certificates(tmp_path, TLS_HOST)
    async with redis_cluster(tmp_path / "redis", **options) as cluster:
        yield cluster


a_node_dies = pytest.mark.parametrize("cluster", [{"node_timeout_ms": SHORT_NODE_TIMEOUT_MS}], indirect=True, ids=[""])


def id_at(cluster: Cluster, node: int, prefix: str = "e") -> str:
    """Returns an execution id whose keys are at a node."""
    names = (f"{prefix}{number}" for number in range(1000))
    return next(each for each in names if cluster.node_of(ExecutionKeys(each).record) is cluster.nodes[node])


@pytest.mark.parametrize("cluster", [{}, {"has_tls": True}], indirect=True, ids=["plain", "tls"])
async def test_executions_at_all_nodes_run_are_watched_taken_over_listed_and_deleted(
    cluster: Cluster, start_process: StartProcess, tmp_path: Path
) -> None:
    ids = [id_at(cluster, node) for node in range(3)]
    async with running_emulator(tmp_path / "cloud") as cloud:
        deployment = Deployment(cluster.nodes[0].server, cloud, start_process, tmp_path)
        await deployment.start([SLOW], count=2, **cluster.variables)
        await asyncio.gather(*(deployment.begin(0, each, until="text_delta", session_id=f"s-{each}") for each in ids))
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


@a_node_dies
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
        await replica.until_it_is("master")
        for watcher in watchers:
            events = await watcher.ended()
            assert not any(map(resumed, events)), "nobody took over"
            assert text_of(events) == SLOW["text"]
        await deployment.begin(1, "after", until="finished")


@a_node_dies
@pytest.mark.parametrize("is_shared", [True, False], ids=["with what replicas share", "without"])
async def test_with_a_replica_of_each_node_nothing_that_was_answered_is_lost(
    cluster: Cluster, start_process: StartProcess, tmp_path: Path, is_shared: bool
) -> None:
    dying = (cluster.nodes.index(cluster.node_of(SHARED)) + (not is_shared)) % 3
    primary = cluster.nodes[dying]
    ids = [id_at(cluster, node) for node in range(3)]
    async with AsyncExitStack() as parts:
        cloud = await parts.enter_async_context(running_emulator(tmp_path / "cloud"))
        copies = [replica_of(cluster, each, tmp_path / f"replica-{each.server.port}") for each in cluster.nodes]
        replicas = [await parts.enter_async_context(each) for each in copies]
        deployment = Deployment(primary.server, cloud, start_process, tmp_path)
        await deployment.start([SLOW], count=2, REDIS_MIN_REPLICAS="1", **cluster.variables)
        for each in deployment.replicas:
            await ready(each.address, is_ready=True)
        for name in ids:
            await deployment.begin_replicated(0, name, until="text_delta")
        watchers = [deployment.watch(1, execution_id=name) for name in ids]
        for watcher in watchers:
            await watcher.until(kind("text_delta"))
        answered: list[str] = []
        done = asyncio.Event()
        starting = asyncio.create_task(start_until(done, deployment, answered))
        while len(answered) < 3:
            await asyncio.sleep(0.05)
        replicas[dying].server.pause()  # from here on nothing that this node is told is anywhere else
        await asyncio.sleep(UNREPLICATED_SECONDS)
        primary.server.kill()
        replicas[dying].server.resume()
        await replicas[dying].until_it_is("master")
        await primary.server.start()  # as a replica of what was its own
        await primary.until_it_is("slave")
        for each in deployment.replicas:
            await ready(each.address, is_ready=True)
        done.set()
        await starting
        await deployment.begin_replicated(1, "after")
        for name, watcher in zip(ids, watchers, strict=True):
            events = await watcher.ended()
            assert not any(map(resumed, events)), "nobody took over"
            assert text_of(events) == SLOW["text"]
            assert await deployment.watch(0, execution_id=name).ended() == events, "the log has what was seen"
        for name in [*answered, "after"]:
            events = await deployment.watch(1, execution_id=name).ended()
            assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
        request = runner_pb2.ListExecutionsRequest(page_size=500)
        listed = (await deployment.replicas[0].stub.ListExecutions(request)).executions
        assert {*ids, *answered, "after"} <= {each.execution_id for each in listed}


async def test_tls_verifies_the_certificates_of_all_nodes(tmp_path: Path) -> None:
    tls = certificates(tmp_path, TLS_HOST)
    async with redis_cluster(tmp_path / "redis", tls=tls) as cluster:
        wrong = replace(cluster.address, tls_ca_file=tls.other_ca_file)
        async with redis_storage(wrong) as storage:
            with pytest.raises(LogError, match="certificate verify failed"):
                await storage.replicas.reach()


async def test_a_slot_that_is_moved_to_another_node_keeps_its_execution(cluster: Cluster) -> None:
    name = id_at(cluster, 0)
    moving = MovingSlot(cluster, ExecutionKeys(name).record)
    async with redis_storage(cluster.address) as storage:
        await storage.replicas.reach()
        log = storage.log
        await log.append([execution(name), NewEvent(name, 1, b"<1>")])
        moving.begin()
        moving.move()
        assert await log.get(name), "while the keys are at the other node already"
        moving.end()
        async with asyncio.timeout(60):
            while True:
                try:
                    await log.append([NewEvent(name, 2, b"<2>")])
                    break
                except LogError:  # as the writer of the log does
                    await asyncio.sleep(0.1)
        assert (await log.read(name, 0, 1000)).frames == b"<1><2>"
        assert moving.target.run("EXISTS", ExecutionKeys(name).record)


async def test_a_claim_waits_for_a_slot_that_moves_and_fences_then(cluster: Cluster) -> None:
    name = id_at(cluster, 1)
    moving = MovingSlot(cluster, ExecutionKeys(name).record)
    async with redis_storage(cluster.address) as earlier, redis_storage(cluster.address) as later:
        claim = await earlier.ownership.claim(name)
        assert claim
        owners = {name: claim.token}
        assert not await earlier.log.append([execution(name), NewEvent(name, 1, b"<1>")], owners)
        await later.replicas.beat()  # the earlier owner has no lease
        moving.begin()
        moving.move(1)
        with pytest.raises(LogError, match="during rehashing"):
            await later.ownership.claim(name)
        moving.move()
        claims = [asyncio.create_task(claimed(each, name)) for each in (later, later)]
        moving.end()
        tokens = {each.token for each in await asyncio.gather(*claims)}
        assert len(tokens) == 1
        assert min(tokens) > claim.token
        assert await appended(earlier, NewEvent(name, 2, b"<old>"), owners) == {name: Rejection.FENCED}
        assert not await appended(later, NewEvent(name, 2, b"<2>"), {name: min(tokens)})
        assert (await later.log.read(name, 0, 1000)).frames == b"<1><2>"


async def test_what_waits_while_the_slot_of_the_queue_moves_is_taken_once_and_in_order(cluster: Cluster) -> None:
    names = [f"e{number}" for number in range(20)]
    moving = MovingSlot(cluster, deployment_keys("default").queue)
    async with AsyncExitStack() as parts:
        replicas = [Replica(await parts.enter_async_context(redis_storage(cluster.address))) for _ in range(3)]
        for name in names:
            await replicas[0].offer(name, session="s" if name in {"e3", "e4"} else "")
        moving.begin()
        moving.move(3)
        for each in replicas:
            each.capacity = 5
            with pytest.raises(LogError):
                await each.take()
            assert not each.running, "nothing is done by halves"
        taking = [asyncio.create_task(taken(each)) for each in replicas]
        moving.move()
        moving.end()
        await asyncio.gather(*taking)
        assert sorted(name for each in replicas for name in each.running) == sorted({*names[:16]} - {"e4"})
        for each in replicas:
            assert each.running == [name for name in names if name in each.running]
    assert moving.target.run("EXISTS", deployment_keys("default").queue)


async def taken(replica: Replica) -> None:
    """Takes what there is room for, again while the slot of the queue moves."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(LogError):
                await replica.take()
                return


async def claimed(storage: RedisStorage, name: str) -> Claim:
    """Claims an execution, again while its slot moves."""
    async with asyncio.timeout(60):
        while True:
            with contextlib.suppress(LogError):
                claim = await storage.ownership.claim(name)
                assert claim
                return claim


async def appended(storage: RedisStorage, event: NewEvent, owners: dict[str, int]) -> Mapping[str, Rejection]:
    """Appends an event, again while nobody has its slot, as the writer of the log does."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await storage.log.append([event], owners)
            except LogError:
                await asyncio.sleep(0.1)


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
