"""What every implementation of the stores of tenants promises: usage, audit, and in Redis open calls."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
from tests.scale.redis_server import RedisServer, redis_server
from tests.storage.test_conformance import IN_REDIS, SERVERS

from runner_service import states
from runner_service.executions.tenant_retention import prune_tenant
from runner_service.storage import audit as audit_protocol
from runner_service.storage.backend import Storage
from runner_service.storage.event_log import NewExecution
from runner_service.storage.execution_filter import ExecutionFilter
from runner_service.storage.redis import audit as redis_audit
from runner_service.storage.redis.address import RedisAddress
from runner_service.storage.redis.backend import RedisStorage, redis_storage
from runner_service.storage.sqlite import audit as sqlite_audit
from runner_service.storage.sqlite.backend import sqlite_storage
from runner_service.v1 import agent_runner_pb2 as runner_pb2


@asynccontextmanager
async def shared(address: RedisAddress) -> AsyncIterator[RedisStorage]:
    """Opens the storage of one more replica, which lives: its lease lasts, however long the test takes."""
    async with redis_storage(address) as storage:
        await storage.replicas.reach()
        await storage.replicas.beat()
        await storage.connection.call("ZADD", storage.keys.leases, 1e15, storage.replicas.name)
        yield storage


def address_of(server: RedisServer) -> RedisAddress:
    return RedisAddress("127.0.0.1", server.port)


@pytest.fixture(params=["sqlite", *IN_REDIS])
async def storage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Storage]:
    if request.param == "sqlite":
        async with sqlite_storage(tmp_path) as opened:
            yield opened
    else:
        async with (
            redis_server(tmp_path, program=SERVERS[request.param]) as server,
            shared(address_of(server)) as opened,
        ):
            yield opened


@pytest.fixture(params=IN_REDIS)
async def replicas(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[list[RedisStorage]]:
    """The storage of three replicas on one Redis."""
    async with AsyncExitStack() as parts:
        server = await parts.enter_async_context(redis_server(tmp_path, program=SERVERS[request.param]))
        yield [await parts.enter_async_context(shared(address_of(server))) for _ in range(3)]


async def test_tokens_are_counted_by_tenant_and_day(storage: Storage) -> None:
    usage = storage.usage
    await asyncio.gather(*(usage.add("acme", "20261128", 10) for _ in range(10)), usage.add("globex", "20261128", 7))
    assert await usage.total("acme", "20261128") == 100
    assert await usage.total("globex", "20261128") == 7
    assert await usage.total("acme", "20261129") == await usage.total("other", "20261128") == 0
    await usage.add("acme", "20261129", 1)
    assert await usage.total("acme", "20261129") == 1


async def test_so_many_starts_of_a_tenant_are_counted_and_then_the_time_is_told(storage: Storage) -> None:
    delays = await asyncio.gather(*(storage.usage.start("acme", 5) for _ in range(20)))
    assert delays.count(0) == 5
    assert all(0 < delay <= 60 for delay in delays if delay)
    assert await storage.usage.start("globex", 1) == 0
    assert await storage.usage.start("nothing", 0) == 60
    assert await storage.usage.start("acme", 6) == 0, "the quota was raised"


async def test_the_audit_comes_back_newest_first_by_tenant_and_in_pages(storage: Storage) -> None:
    audit = storage.audit
    await audit.add([(f"t{number % 2}", b"%d" % number) for number in range(10)])
    await audit.add([("", b"same"), ("", b"same"), ("t1", b"with spaces \x00\xff in it")])

    async def pages(tenant: str, limit: int) -> list[bytes]:
        found, key = list[bytes](), 0
        while True:
            page = await audit.page(tenant, limit=limit, before_key=key)
            assert len(page.entries) <= limit
            found += page.entries
            key = page.next_key
            if not key:
                return found

    everything = [b"with spaces \x00\xff in it", b"same", b"same", *(b"%d" % number for number in range(9, -1, -1))]
    for limit in (1, 2, 3, 13, 50):
        assert await pages("", limit) == everything
    for limit in (1, 2, 3, 50):
        assert await pages("t0", limit) == [b"8", b"6", b"4", b"2", b"0"]
        assert await pages("t", limit) == []
    await audit.delete_before(time.time() - 60)
    assert await pages("", 50) == everything
    await audit.delete_before(time.time() + 60)
    assert await pages("", 50) == []


async def test_the_audit_keeps_so_many_entries(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (audit_protocol, redis_audit, sqlite_audit):
        monkeypatch.setattr(module, "MAX_ENTRIES", 5)
    await storage.audit.add([("t", b"%d" % number) for number in range(4)])
    await storage.audit.add([("t", b"%d" % number) for number in range(4, 8)])
    assert (await storage.audit.page("", limit=50)).entries == [b"7", b"6", b"5", b"4", b"3"]


async def test_a_tenant_keeps_so_many_bytes_and_no_other_tenant_loses_any(storage: Storage) -> None:
    for tenant in ("acme", "globex"):
        for number in range(4):
            record = runner_pb2.Execution(execution_id=f"{tenant}~{number}", state=states.SUCCEEDED)
            record.usage.stored_bytes = 100
            await storage.log.append([NewExecution(record, b"")])
    assert await prune_tenant(storage.log, "acme", 250) == 2
    page = await storage.log.list_executions(ExecutionFilter(), limit=50)
    kept = sorted(each.execution_id for each in page.executions)
    assert kept == ["acme~2", "acme~3", *(f"globex~{number}" for number in range(4))]


async def test_a_quota_raced_from_three_replicas_is_never_exceeded(replicas: list[RedisStorage]) -> None:
    starts = await asyncio.gather(*(each.usage.start("acme", 10) for each in replicas for _ in range(30)))
    assert starts.count(0) == 10


async def test_open_calls_of_all_replicas_count_together_but_not_those_of_a_dead_one(
    replicas: list[RedisStorage],
) -> None:
    one, two, three = (each.replicas.open_calls for each in replicas)
    assert await one.open_call("acme", 0, 3)
    assert await one.open_call("acme", 1, 3)
    assert await two.open_call("acme", 0, 3)
    assert not await three.open_call("acme", 0, 3)
    assert not await one.open_call("acme", 2, 3)
    assert await three.open_call("globex", 0, 1)
    await one.set_open_calls("acme", 1)
    assert await three.open_call("acme", 0, 3)
    assert not await two.open_call("acme", 1, 3)
    await replicas[0].replicas.leave()
    assert await two.open_call("acme", 1, 3)
    assert not await two.open_call("acme", 2, 3)
