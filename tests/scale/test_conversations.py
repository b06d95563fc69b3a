"""Conversations in Redis, which the executions of a session write one after the other, whoever owns them."""

import contextvars

import pytest
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import empty_checkpoint
from tests.scale.redis_server import RedisServer, needs_redis

from runner_service.storage.checkpoints import Checkpoints
from runner_service.storage.event_log import LogError
from runner_service.storage.ownership import Claim, owner_token
from runner_service.storage.redis.address import RedisAddress
from runner_service.storage.redis.backend import redis_storage

pytestmark = needs_redis

CONFIG = RunnableConfig(configurable={"thread_id": "thread-s", "checkpoint_ns": ""})


async def write(checkpoints: Checkpoints) -> None:
    await checkpoints.saver.aput(CONFIG, empty_checkpoint(), {}, {})


def work_under(claim: Claim | None) -> None:
    assert claim
    owner_token.set(claim.token)


async def test_an_execution_writes_to_its_session_although_one_before_it_was_claimed_later(redis: RedisServer) -> None:
    address = RedisAddress("127.0.0.1", redis.port)
    async with redis_storage(address) as storage, storage.load_checkpoints()() as checkpoints:
        later = await storage.ownership.claim("later")
        work_under(await storage.ownership.claim("earlier"))  # taken over after the one that waits for it
        await checkpoints.enter("thread-s", "earlier")
        await write(checkpoints)
        stale = contextvars.copy_context()
        work_under(later)
        await checkpoints.enter("thread-s", "later")
        await write(checkpoints)
        owner_token.set(stale[owner_token])
        with pytest.raises(LogError, match="taken the execution over"):
            await write(checkpoints)


async def test_who_has_lost_an_execution_cannot_enter_its_session(redis: RedisServer) -> None:
    address = RedisAddress("127.0.0.1", redis.port)
    async with redis_storage(address) as storage, storage.load_checkpoints()() as checkpoints:
        work_under(await storage.ownership.claim("e"))
        assert await storage.ownership.claim("e", anew=True)
        with pytest.raises(LogError, match="taken the execution over"):
            await checkpoints.enter("thread-s", "e")
