"""A replica that follows what others commit."""

import asyncio

from tests.scale.redis_server import RedisServer, needs_redis

from runner_service import states
from runner_service.storage.event_log import NewEvent, NewExecution, NewState
from runner_service.storage.redis.backend import redis_storage
from runner_service.storage.redis.connection import RedisAddress
from runner_service.v1 import agent_runner_pb2 as runner_pb2

pytestmark = needs_redis


async def test_a_watcher_that_comes_as_the_first_one_leaves_is_notified(redis: RedisServer) -> None:
    address = RedisAddress("127.0.0.1", redis.port)
    async with redis_storage(address) as owner, redis_storage(address) as other:
        claim = await owner.ownership.claim("e")
        assert claim
        tokens = {"e": claim.token}
        await owner.log.append([NewExecution(runner_pb2.Execution(execution_id="e"), b"f")], tokens)
        with other.log.subscribe("e", lambda _, __: None):
            pass
        await asyncio.sleep(0)  # the follower wakes up, and finds nobody
        await asyncio.sleep(0.1)
        finished = asyncio.Event()
        with other.log.subscribe("e", lambda last, is_last: finished.set() if (last, is_last) == (1, True) else None):
            ended = NewState(runner_pb2.Execution(execution_id="e", state=states.SUCCEEDED))
            await owner.log.append([NewEvent("e", 1, b"x"), ended], tokens)
            async with asyncio.timeout(10):
                await finished.wait()
