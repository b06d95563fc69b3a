"""What a replica gives up for others to go on with is known to somebody at each moment, whoever dies."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack

import pytest
from tests.scale.redis_server import RedisServer, needs_redis

from runner_service.storage.redis.address import RedisAddress
from runner_service.storage.redis.backend import RedisStorage, redis_storage

pytestmark = needs_redis


@pytest.fixture
async def replicas(redis: RedisServer) -> AsyncIterator[Sequence[RedisStorage]]:
    async with AsyncExitStack() as parts:
        yield [await parts.enter_async_context(redis_storage(RedisAddress("127.0.0.1", redis.port))) for _ in range(3)]


async def hand_over(storage: RedisStorage, *execution_ids: str) -> None:
    for each in execution_ids:
        assert await storage.ownership.claim(each)
        await storage.ownership.release(each, hands_over=True)


async def test_a_replica_may_own_what_it_has_taken_until_it_claims_it(replicas: Sequence[RedisStorage]) -> None:
    one, two, three = (each.replicas for each in replicas)
    await two.beat()
    await hand_over(replicas[0], "e")
    assert not await one.owned_by()
    assert await two.handed_over() == ["e"]
    await two.leave()
    assert await three.beat() == [two.name]
    assert await three.owned_by(two.name) == ["e"]
    assert not await three.handed_over()


async def test_each_of_those_handed_over_is_taken_once(replicas: Sequence[RedisStorage]) -> None:
    names = [f"e{number}" for number in range(60)]
    await hand_over(replicas[0], *names)
    taken = await asyncio.gather(*(each.replicas.handed_over() for each in replicas))
    assert sorted(name for some in taken for name in some) == sorted(names)
    for each, some in zip(replicas, taken, strict=True):
        assert sorted(await each.replicas.owned_by()) == sorted(some)


async def test_what_another_replica_has_claimed_is_nobodys_to_take(replicas: Sequence[RedisStorage]) -> None:
    await replicas[2].replicas.beat()
    await hand_over(replicas[0], "e")
    assert await replicas[1].replicas.handed_over() == ["e"]
    assert await replicas[2].ownership.claim("e")
    assert await replicas[1].ownership.claim("e") is None
    assert not await replicas[1].replicas.owned_by()
    assert await replicas[2].replicas.owned_by() == ["e"]
