"""Contents of changed files: bounded, durable, and deleted with their execution; in SQLite and in Redis."""

import hashlib
import os
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from tests.scale.redis_server import redis_server
from tests.storage.test_conformance import IN_REDIS, SERVERS

from runner_service.storage.backend import Storage
from runner_service.storage.event_log import LogError, NewExecution
from runner_service.storage.redis.address import RedisAddress
from runner_service.storage.redis.backend import redis_storage
from runner_service.storage.sqlite.backend import sqlite_storage
from runner_service.v1 import agent_runner_pb2 as runner_pb2

Open = Callable[[], AbstractAsyncContextManager[Storage]]
MAX_BYTES = 10_000


@pytest.fixture(params=["sqlite", *IN_REDIS])
async def opened(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Open]:
    """Opens the same storage, again and again."""
    if request.param == "sqlite":
        yield lambda: sqlite_storage(tmp_path, changes_max_bytes=MAX_BYTES)
        return
    async with redis_server(tmp_path, program=SERVERS[request.param]) as server:
        yield lambda: _in_redis(server.port)


@asynccontextmanager
async def _in_redis(port: int) -> AsyncIterator[Storage]:
    async with redis_storage(RedisAddress("127.0.0.1", port), changes_max_bytes=MAX_BYTES) as storage:
        await storage.replicas.reach()
        yield storage


def named(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_a_content_survives_and_is_deleted_with_its_execution(opened: Open) -> None:
    data = b"text\n" * 1000
    async with opened() as storage:
        await storage.log.append([NewExecution(runner_pb2.Execution(execution_id="a"), b"")])
        assert await storage.contents.put("a", named(data), data)
        assert await storage.contents.put("a", named(data), data)
    async with opened() as storage:
        assert await storage.contents.get("a", named(data)) == data
        assert await storage.contents.get("b", named(data)) is None
        assert await storage.contents.names("a") == {named(data)}
        await storage.log.delete("a")
        assert await storage.contents.get("a", named(data)) is None
        assert await storage.contents.names("a") == frozenset()


async def test_the_oldest_executions_lose_their_contents_first_and_none_its_own(opened: Open) -> None:
    first, second, third = (os.urandom(4000) for _ in range(3))
    async with opened() as storage:
        assert await storage.contents.put("old", named(first), first)
        assert await storage.contents.put("new", named(second), second)
        assert await storage.contents.put("newest", named(third), third)
        assert await storage.contents.get("old", named(first)) is None
        assert await storage.contents.get("new", named(second)) == second
        too_large = os.urandom(9000)
        assert not await storage.contents.put("newest", named(too_large), too_large)
        assert await storage.contents.get("new", named(second)) == second
        assert await storage.contents.get("newest", named(third)) == third


async def test_what_repeats_takes_little_of_the_room(opened: Open) -> None:
    async with opened() as storage:
        texts = [b"%d\n" % number * 2000 for number in range(10, 20)]
        for text in texts:
            assert await storage.contents.put("a", named(text), text)
        assert await storage.contents.names("a") == {*map(named, texts)}


async def test_a_damaged_content_is_an_error_and_a_missing_one_is_none(tmp_path: Path) -> None:
    async with sqlite_storage(tmp_path) as storage:
        await storage.contents.put("a", named(b"x"), b"x")
        (tmp_path / "contents" / "a" / named(b"x")).write_bytes(b"damaged")
        with pytest.raises(LogError, match="cannot be read"):
            await storage.contents.get("a", named(b"x"))
        assert await storage.contents.get("a", named(b"y")) is None
