"""A replica that follows what others commit."""

import asyncio
import gc
import logging
import signal
import time
from typing import Any

import pytest
from tests.logged import errors
from tests.running import turn
from tests.scale.redis_server import RedisServer, needs_redis
from tests.scale.replicas import Deployment, kind

from runner_service import states
from runner_service.storage.event_log import LogError, NewEvent, NewExecution, NewState, Page
from runner_service.storage.redis import following
from runner_service.storage.redis.address import RedisAddress
from runner_service.storage.redis.backend import redis_storage
from runner_service.v1 import agent_runner_pb2 as runner_pb2

pytestmark = needs_redis

STOPPED_SECONDS = 30.0
BUFFER_BYTES = 64 * 1024


async def test_a_watcher_that_comes_as_the_first_one_leaves_is_notified(redis: RedisServer) -> None:
    address = RedisAddress("127.0.0.1", redis.port)
    async with redis_storage(address) as owner, redis_storage(address) as other:
        claim = await owner.ownership.claim("e")
        assert claim
        tokens = {"e": claim.token}
        await owner.log.append([NewExecution(runner_pb2.Execution(execution_id="e"), b"f")], tokens)
        with other.log.subscribe("e", lambda *_: None):
            pass
        await asyncio.sleep(0)  # the follower wakes up, and finds nobody
        await asyncio.sleep(0.1)
        finished = asyncio.Event()
        with other.log.subscribe(
            "e", lambda last, is_last, _: finished.set() if (last, is_last) == (1, True) else None
        ):
            ended = NewState(runner_pb2.Execution(execution_id="e", state=states.SUCCEEDED))
            await owner.log.append([NewEvent("e", 1, b"x"), ended], tokens)
            async with asyncio.timeout(60):
                await finished.wait()


async def test_what_many_watchers_want_at_once_is_read_in_one_round_trip(redis: RedisServer) -> None:
    async with redis_storage(RedisAddress("127.0.0.1", redis.port)) as storage:
        names = [f"e{number}" for number in range(50)]
        for name in names:
            await storage.log.append([NewExecution(runner_pb2.Execution(execution_id=name), b"f")])
            await storage.log.append([NewEvent(name, 1, b"1"), NewEvent(name, 2, b"2")])
        assert [(await storage.log.read(each, 0, 1)).last for each in names] == 50 * [1]
        with redis.client as client:
            before = client.info("stats")["total_reads_processed"]
            reads = [asyncio.ensure_future(storage.log.read(each, 1, 1000)) for each in names]
            asyncio.get_running_loop().call_soon(reads[0].cancel)  # a watcher that leaves
            pages = await asyncio.gather(*reads, return_exceptions=True)
            assert client.info("stats")["total_reads_processed"] - before < 10
    assert isinstance(pages[0], asyncio.CancelledError)
    assert pages[1:] == 49 * [Page(b"2", 2)]


async def test_events_are_read_again_when_redis_is_back(redis: RedisServer) -> None:
    async with redis_storage(RedisAddress("127.0.0.1", redis.port)) as storage:
        await storage.log.append([NewExecution(runner_pb2.Execution(execution_id="e"), b"f"), NewEvent("e", 1, b"1")])
        assert (await storage.log.read("e", 0, 1000)).last == 1
        with redis.client as client:
            client.config_set("appendfsync", "always")
        redis.kill()
        with pytest.raises(LogError):
            await storage.log.read("e", 0, 1000)
        await redis.start()
        assert await storage.log.read("e", 0, 1000) == Page(b"1", 1)


async def test_a_follower_says_once_that_there_is_no_redis_and_once_that_it_is_back(
    redis: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    redis.kill()
    tries = 0
    tried_often = asyncio.Event()

    def refuse(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal tries
        tries += 1
        if tries == 5:
            tried_often.set()
        writer.close()

    async with redis_storage(RedisAddress("127.0.0.1", redis.port)) as storage, asyncio.timeout(30):
        with storage.log.subscribe("e", lambda *_: None):
            async with await asyncio.start_server(refuse, "127.0.0.1", redis.port):
                await tried_often.wait()
            await redis.start()
            while (found := said_by_follower(caplog))[-1:] != ["following_resumed"]:
                await asyncio.sleep(0.05)
    assert found == ["following_interrupted", "following_resumed"]


async def test_a_redis_that_hangs_does_not_count_as_back_since_it_takes_connections(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(following, "_PING_INTERVAL_SECONDS", 0.05)
    caplog.set_level(logging.INFO)
    connections = 0
    tried_often = asyncio.Event()

    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections == 3:
            tried_often.set()
        try:
            await reader.read()
        finally:  # it may be cancelled, at the end
            writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server, asyncio.timeout(30):
        address = RedisAddress("127.0.0.1", server.sockets[0].getsockname()[1])
        async with redis_storage(address) as storage:
            with storage.log.subscribe("e", lambda *_: None):
                await tried_often.wait()
    gc.collect()
    assert said_by_follower(caplog) == ["following_interrupted"]
    assert not errors(caplog)


def said_by_follower(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The first words of what was logged about the connection that follows."""
    words = [record.getMessage().split()[0] for record in caplog.records if record.name == following.__name__]
    return [each for each in words if each.startswith("following")]


def fill_subscribers(client: Any) -> None:
    """Publishes what changes nothing, until Redis has dropped a subscriber that does not read."""
    before = len(client.client_list(_type="pubsub"))
    deadline = time.monotonic() + 60
    while len(client.client_list(_type="pubsub")) >= before:
        assert time.monotonic() < deadline
        pipeline = client.pipeline(transaction=False)
        for _ in range(5000):
            pipeline.publish("rs1:{e}:n", "0:0:0")
        pipeline.execute()


@pytest.mark.long
async def test_19_a_watcher_misses_nothing_when_its_replica_is_stopped_and_redis_drops_it(
    deployment: Deployment,
) -> None:
    slow = turn(" ".join(str(number) for number in range(80)), delay=0.1)
    await deployment.start([slow], count=2)
    await deployment.begin(0, "e", until="text_delta")
    watcher = deployment.watch(1, execution_id="e")
    await watcher.until(kind("text_delta"))
    deployment.signal(1, signal.SIGSTOP)
    with deployment.redis.client as client:
        client.config_set("client-output-buffer-limit", f"pubsub {BUFFER_BYTES} 0 0")
        await asyncio.to_thread(fill_subscribers, client)
    await asyncio.sleep(STOPPED_SECONDS)
    deployment.signal(1, signal.SIGCONT)
    await deployment.begin(0, "other", until="text_delta")
    other = deployment.watch(1, execution_id="other")
    await other.until(kind("text_delta"))
    with deployment.redis.client as client:
        client.execute_command("CLIENT", "KILL", "TYPE", "PUBSUB")
    assert await watcher.ended() == await deployment.watch(0, execution_id="e").ended()
    assert await other.ended() == await deployment.watch(0, execution_id="other").ended()
    assert not watcher.statuses, "the stream went on"
