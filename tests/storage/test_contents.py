"""Contents of changed files: bounded, durable, and deleted with their execution."""

import hashlib
import os
from pathlib import Path

import pytest

from runner_service.storage.event_log import LogError, NewExecution
from runner_service.storage.sqlite.backend import sqlite_storage
from runner_service.v1 import agent_runner_pb2 as runner_pb2


def named(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_a_content_survives_and_is_deleted_with_its_execution(tmp_path: Path) -> None:
    data = b"text\n" * 1000
    async with sqlite_storage(tmp_path) as storage:
        await storage.log.append([NewExecution(runner_pb2.Execution(execution_id="a"), b"")])
        assert await storage.contents.put("a", named(data), data)
        assert await storage.contents.put("a", named(data), data)
    async with sqlite_storage(tmp_path) as storage:
        assert await storage.contents.get("a", named(data)) == data
        assert await storage.contents.names("a") == {named(data)}
        await storage.log.delete("a")
        assert await storage.contents.get("a", named(data)) is None
        assert await storage.contents.names("a") == frozenset()


async def test_the_oldest_executions_lose_their_contents_first_and_none_its_own(tmp_path: Path) -> None:
    first, second, third = (os.urandom(4000) for _ in range(3))
    async with sqlite_storage(tmp_path, changes_max_bytes=10_000) as storage:
        assert await storage.contents.put("old", named(first), first)
        assert await storage.contents.put("new", named(second), second)
        os.utime(tmp_path / "contents" / "old", (1, 1))
        assert await storage.contents.put("newest", named(third), third)
        assert await storage.contents.get("old", named(first)) is None
        assert await storage.contents.get("new", named(second)) == second
        too_large = os.urandom(9000)
        assert not await storage.contents.put("newest", named(too_large), too_large)
        assert await storage.contents.get("new", named(second)) == second
        assert await storage.contents.get("newest", named(third)) == third


async def test_a_damaged_content_is_an_error_and_a_missing_one_is_none(tmp_path: Path) -> None:
    async with sqlite_storage(tmp_path) as storage:
        await storage.contents.put("a", named(b"x"), b"x")
        (tmp_path / "contents" / "a" / named(b"x")).write_bytes(b"damaged")
        with pytest.raises(LogError, match="cannot be read"):
            await storage.contents.get("a", named(b"x"))
        assert await storage.contents.get("a", named(b"y")) is None
