"""The storage of a service whose replicas share a Redis."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from dataclasses import dataclass
from functools import partial

from runner_service.storage.checkpoints import OpenCheckpoints
from runner_service.storage.redis.activities import RedisActivityStore
from runner_service.storage.redis.address import RedisAddress
from runner_service.storage.redis.audit import RedisAuditStore
from runner_service.storage.redis.connection import Connection, connection
from runner_service.storage.redis.contents import RedisContentStore
from runner_service.storage.redis.event_log import RedisEventLog
from runner_service.storage.redis.following import Follower, cancel
from runner_service.storage.redis.keys import DeploymentKeys, deployment_keys
from runner_service.storage.redis.nodes import NodeAppenders, NodeEntryReads
from runner_service.storage.redis.ownership import RedisOwnership
from runner_service.storage.redis.queue import RedisQueue
from runner_service.storage.redis.replicas import RedisReplicas
from runner_service.storage.redis.scratch_files import RedisScratchFiles
from runner_service.storage.redis.usage import RedisUsageStore

LEASE_SECONDS = 3.0
_DEFAULT_CHANGES_MAX_BYTES = 256 * 1024 * 1024


@dataclass(frozen=True)
class RedisStorage:
    """Implements `Storage`. Construct it with `redis_storage`."""

    connection: Connection
    keys: DeploymentKeys
    log: RedisEventLog
    ownership: RedisOwnership
    replicas: RedisReplicas
    scratch_files: RedisScratchFiles
    contents: RedisContentStore
    usage: RedisUsageStore
    audit: RedisAuditStore

    def open_activities(self) -> AbstractAsyncContextManager[RedisActivityStore]:
        """Implements `Storage`."""
        return nullcontext(RedisActivityStore(self.connection, self.keys, self.ownership))

    def load_checkpoints(self) -> OpenCheckpoints:
        """Implements `Storage`."""
        from runner_service.storage.redis.checkpoints import redis_checkpoints  # noqa: PLC0415  # takes long

        return partial(redis_checkpoints, self.connection, self.keys)


@asynccontextmanager
async def redis_storage(
    address: RedisAddress, *, changes_max_bytes: int = _DEFAULT_CHANGES_MAX_BYTES, deployment: str = "default"
) -> AsyncIterator[RedisStorage]:
    """Opens the storage, whether Redis answers or not; `RedisReplicas.reach` tells."""
    keys = deployment_keys(deployment)
    async with connection(address) as opened:
        follower = Follower(opened)
        appenders = NodeAppenders(opened)
        entries = NodeEntryReads(opened)
        following = asyncio.create_task(follower.run(), name="redis-follower")
        try:
            log = RedisEventLog(opened, appenders, entries, keys, follower)
            ownership = RedisOwnership(opened, keys)
            queue = RedisQueue(opened, keys, ownership.replica, follower)
            replicas = RedisReplicas(opened, keys, ownership.replica, log, queue, lease_seconds=LEASE_SECONDS)
            scratch_files = RedisScratchFiles(opened.patient(), keys)
            contents = RedisContentStore(opened.patient(), keys, changes_max_bytes)
            usage = RedisUsageStore(opened, keys)
            audit = RedisAuditStore(opened, keys)
            yield RedisStorage(opened, keys, log, ownership, replicas, scratch_files, contents, usage, audit)
        finally:
            await cancel(following)
            await entries.close()
            await appenders.close()
