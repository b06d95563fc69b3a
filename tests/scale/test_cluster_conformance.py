"""What every implementation of the storage promises, in a Redis Cluster."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack

import pytest
from tests.scale.cluster import Cluster, redis_cluster
from tests.scale.redis_server import needs_redis
from tests.storage.test_conformance import *  # noqa: F403  # its tests, with the fixture of this module

from runner_service.storage.event_log import EventLog
from runner_service.storage.redis.backend import redis_storage

pytestmark = [needs_redis, pytest.mark.long]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    loop = asyncio.new_event_loop()
    stack = AsyncExitStack()
    running = redis_cluster(tmp_path_factory.mktemp("cluster"))
    try:
        yield loop.run_until_complete(stack.enter_async_context(running))
        loop.run_until_complete(stack.aclose())
    finally:
        loop.close()


@pytest.fixture  # type: ignore[no-redef]  # instead of the imported one
async def log(cluster: Cluster) -> AsyncIterator[EventLog]:
    cluster.flush()
    async with redis_storage(cluster.address, changes_max_bytes=1 << 20) as storage:
        await storage.replicas.reach()
        yield storage.log
