"""Text is appended without a script, and is fenced and complete all the same."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from tests.running import one, turn
from tests.scale.redis_server import RedisServer, needs_redis
from tests.scale.replicas import Deployment, kind, resumed

from runner_service.events.stream import EventStream
from runner_service.events.writer import log_writer
from runner_service.storage.event_log import Entry, LogError, NewEvent, NewExecution, NewValue, Page, Rejection
from runner_service.storage.owner_history import OwnerHistory, Start
from runner_service.storage.redis import appender
from runner_service.storage.redis.address import RedisAddress
from runner_service.storage.redis.appender import Position, Sent
from runner_service.storage.redis.backend import RedisStorage, redis_storage
from runner_service.storage.redis.keys import ExecutionKeys
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

pytestmark = needs_redis


@asynccontextmanager
async def replica(redis: RedisServer) -> AsyncIterator[RedisStorage]:
    async with redis_storage(RedisAddress("127.0.0.1", redis.port)) as storage:
        yield storage


async def begun(storage: RedisStorage) -> dict[str, int]:
    """Starts an execution with one event; returns its owner's token."""
    claim = await storage.ownership.claim("e")
    assert claim
    owners = {"e": claim.token}
    await storage.log.append(
        [NewExecution(runner_pb2.Execution(execution_id="e"), b"f"), NewEvent("e", 1, b"1")], owners
    )
    return owners


async def taken_over(storage: RedisStorage, redis: RedisServer) -> dict[str, int]:
    """Claims the execution as when its owner's lease is over; returns the new token."""
    with redis.client as client:
        client.hdel("rs1:{e}:x", "owner")
    claim = await storage.ownership.claim("e")
    assert claim
    return {"e": claim.token}


async def appended(storage: RedisStorage, entry: Entry, owners: dict[str, int]) -> None:
    """Appends an entry after the connection has been cut, which the first try may find."""
    with contextlib.suppress(LogError):
        await storage.log.append([entry], owners)
    assert not await storage.log.append([entry], owners)


def scripts_run(redis: RedisServer) -> int:
    with redis.client as client:
        return int(client.info("commandstats").get("cmdstat_evalsha", {"calls": 0})["calls"])


async def test_text_needs_no_script_once_the_connection_is_known(
    redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appender, "_SURE_SECONDS", 60.0)  # also on a machine that holds one of both up
    async with replica(redis) as storage:
        owners = await begun(storage)
        before = scripts_run(redis)
        for sequence in range(2, 12):
            assert not await storage.log.append([NewEvent("e", sequence, b"t")], owners)
        assert scripts_run(redis) == before
        assert await storage.log.read("e", 0, 1000) == Page(b"1tttttttttt", 11)


async def test_text_of_an_earlier_owner_is_refused_on_a_connection_that_never_broke(redis: RedisServer) -> None:
    async with replica(redis) as earlier, replica(redis) as later:
        old = await begun(earlier)
        assert not await earlier.log.append([NewEvent("e", 2, b"2")], old)
        new = await taken_over(later, redis)
        assert await earlier.log.append([NewEvent("e", 3, b"old")], old) == {"e": Rejection.FENCED}
        assert not await later.log.append([NewEvent("e", 3, b"new")], new)
        assert await earlier.log.append([NewEvent("e", 4, b"old")], old) == {"e": Rejection.FENCED}
        for storage in (earlier, later):
            for after, frames in ((0, b"12new"), (1, b"2new"), (2, b"new")):
                assert await storage.log.read("e", after, 1000) == Page(frames, 3)
        stored = await earlier.log.get("e")
        assert stored
        assert stored.execution.last_sequence == 3


async def test_a_later_owner_has_all_that_was_acknowledged_and_no_id_comes_twice(redis: RedisServer) -> None:
    async with replica(redis) as earlier, replica(redis) as later:
        owners = await begun(earlier)
        for sequence in range(2, 101):
            assert not await earlier.log.append([NewEvent("e", sequence, b"t")], owners)
        new = await taken_over(later, redis)
        stored = await later.log.get("e")
        assert stored
        assert stored.execution.last_sequence == 100
        assert [start.after for start in stored.owners] == [0, 100]
        assert not await later.log.append([NewEvent("e", 103, b"new", count=3)], new)
        assert await earlier.log.append([NewEvent("e", 101, b"t")], owners) == {"e": Rejection.FENCED}
        assert await earlier.log.read("e", 0, 10_000) == Page(b"1" + 99 * b"t" + b"new", 103)
    with redis.client as client:
        names = [tuple(map(int, name.split(b"-"))) for name, _ in client.xrange("rs1:{e}:e")]
    assert names == sorted(set(names))
    assert [token for token, sequence in names if sequence > 100] == [new["e"]]


def lose_newest(redis: RedisServer, count: int) -> None:
    """Does what a failover does: the newest entries are gone, and every connection is new."""
    with redis.client as client:
        kept = client.xrange("rs1:{e}:e")[:-count]
        client.delete("rs1:{e}:e")
        for name, fields in kept:
            client.xadd("rs1:{e}:e", fields, id=name)
        client.client_kill_filter(_type="normal", skipme=True)


async def test_text_that_redis_has_lost_is_appended_again(redis: RedisServer) -> None:
    async with replica(redis) as storage:
        owners = await begun(storage)
        for sequence in range(2, 8):
            assert not await storage.log.append([NewEvent("e", sequence, b"%d" % sequence)], owners)
        lose_newest(redis, 3)
        await appended(storage, NewEvent("e", 8, b"8"), owners)
        assert await storage.log.read("e", 0, 1000) == Page(b"12345678", 8)


async def test_whoever_attaches_to_the_owner_sees_what_redis_has_lost_though_nothing_more_is_said(
    redis: RedisServer,
) -> None:
    async with replica(redis) as storage, log_writer(storage.log) as writer:
        owners = await begun(storage)
        stream = EventStream("e", writer, storage.log, last_sequence=1)
        stream.owner_token = owners["e"]
        framer = stream.text_framer(event_pb2.TextDelta, "m")
        for word in ("one", "two", "three"):
            stream.publish_text(framer, word)
            await stream.flush()
        lose_newest(redis, 2)
        page = await stream.page("watcher", 2, timeout_seconds=10)
        assert page
        events = runner_pb2.ExecuteAgentResponse.FromString(page.frames).events
        assert [(each.sequence, each.text_delta.text) for each in events] == [(3, "two"), (4, "three")]


async def test_what_a_silent_owner_appends_is_checked_by_the_script() -> None:
    sent = Sent("e", ExecutionKeys("e"), 1, Position(0, 0))
    assert not sent.is_sure(1, time.monotonic())
    sent.add([NewEvent("e", 1, b"1")], 0, connection=1)
    now = time.monotonic()
    assert sent.is_sure(1, now)
    assert not sent.is_sure(2, now)
    assert not sent.is_sure(1, now + 3)
    sent.doubt()
    assert not sent.is_sure(1, now)


@pytest.mark.long
async def test_an_owner_that_was_stopped_in_mid_sentence_says_nothing_when_it_goes_on(deployment: Deployment) -> None:
    text = " ".join(map(str, range(25)))
    await deployment.start([turn(text, delay=1.0)])  # also on a busy machine it is stopped before the end
    await deployment.start(STIGMER_LLM_SCRIPT=deployment.other_script([turn(text, delay=0.2)]))
    await deployment.begin(0, "e", until="text_delta")
    here, there = deployment.watch(0, execution_id="e"), deployment.watch(1, execution_id="e")
    await there.until(kind("text_delta"))
    deployment.signal(0, signal.SIGSTOP)
    await there.until(resumed)
    deployment.signal(0, signal.SIGCONT)
    events = await there.ended()
    assert await here.ended() == events
    assert len([each for each in events if each.HasField("started")]) == 2
    assert one(events, "finished").output == text


async def test_text_of_a_deleted_execution_is_refused(redis: RedisServer) -> None:
    async with replica(redis) as storage, replica(redis) as other:
        owners = await begun(storage)
        assert not await storage.log.append([NewEvent("e", 2, b"2")], owners)
        assert await other.log.delete("e")
        assert await storage.log.append([NewEvent("e", 3, b"3")], owners) == {"e": Rejection.DELETED}
        with redis.client as client:
            assert not client.exists("rs1:{e}:e")


async def test_what_is_appended_again_after_the_answer_was_lost_is_there_once(redis: RedisServer) -> None:
    async with replica(redis) as storage:
        owners = await begun(storage)
        assert not await storage.log.append([NewEvent("e", 2, b"2")], owners)
        with redis.client as client:  # the owner's append has come, and its answer has not
            client.xadd("rs1:{e}:e", {"n": 1, "f": b"3"}, id=f"{owners['e']}-3")
        again: list[Entry] = [NewEvent("e", 3, b"3"), NewValue("e", "name", b"value"), NewEvent("e", 4, b"4")]
        assert not await storage.log.append(again[:1], owners)
        assert not await storage.log.append(again[1:], owners)
        assert await storage.log.read("e", 0, 1000) == Page(b"1234", 4)


async def test_text_goes_on_after_redis_was_killed(redis: RedisServer) -> None:
    async with replica(redis) as storage:
        owners = await begun(storage)
        assert not await storage.log.append([NewEvent("e", 2, b"2")], owners)
        with redis.client as client:
            client.config_set("appendfsync", "always")
            client.set("any", "value")
        redis.kill()
        await redis.start()
        await appended(storage, NewEvent("e", 3, b"3"), owners)
        assert scripts_run(redis) >= 1, "on a new connection the script looks what is there"
        assert await storage.log.read("e", 0, 1000) == Page(b"123", 3)


async def test_a_watcher_that_was_told_of_more_than_there_is_waits_on(redis: RedisServer) -> None:
    async with replica(redis) as owner, replica(redis) as other, log_writer(other.log) as writer:
        owners = await begun(owner)
        stream = EventStream("e", writer, other.log)
        stream.is_remote = True
        stream.observe(7, finished=False, owners=OwnerHistory([Start(owners["e"], 0)]))
        assert await stream.page("watcher", 1, timeout_seconds=10) == Page(b"", 1)
        with stream.followed():
            waiting = asyncio.ensure_future(stream.page("watcher", 1, timeout_seconds=10))
            await owner.log.append([NewEvent("e", 2, b"2")], owners)
            assert await waiting == Page(b"2", 2)
