"""What the queue of all replicas promises, in a Redis Cluster."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from tests.scale.cluster import Cluster
from tests.scale.redis_server import needs_redis
from tests.scale.test_cluster_conformance import cluster
from tests.storage.test_shared_queue import *  # noqa: F403  # its tests, with the fixture of this module
from tests.storage.test_shared_queue import Replica
from tests.storage.test_tenant_stores import shared

from runner_service.storage.redis.keys import deployment_keys

__all__ = ["cluster"]

pytestmark = [needs_redis, pytest.mark.long]

QUEUE = deployment_keys("default").queue


@pytest.fixture  # type: ignore[no-redef]  # instead of the imported one
async def replicas(cluster: Cluster) -> AsyncIterator[list[Replica]]:  # the fixture
    cluster.flush()
    async with AsyncExitStack() as parts:
        yield [Replica(await parts.enter_async_context(shared(cluster.address))) for _ in range(3)]
    for node in cluster.nodes:
        if node is not cluster.node_of(QUEUE):
            assert not [key for key in node.run("KEYS", "*") if b":queue" in key or b":turns:" in key]
