"""The connections to Redis: plain commands, pipelines and scripts. Every failure is a LogError."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from redis import RedisError

from runner_service.addresses import TcpAddress
from runner_service.errors import text_of
from runner_service.storage.event_log import LogError
from runner_service.storage.redis.address import REPLICATION_TIMEOUT_MS, RedisAddress
from runner_service.storage.redis.lua import Argument, Command, ScriptCall, evalsha
from runner_service.storage.redis.routing import FAILURES, Router, Unit
from runner_service.storage.redis.topology import Topology

_PATIENCE_SECONDS = 60.0
_RETRY_INTERVAL_SECONDS = 0.2


class Connection:
    """Redis, as the storage uses it. Construct it with `connection`."""

    def __init__(self, address: RedisAddress, router: Router, *, patience_seconds: float = 0.0) -> None:
        self.address = address
        self._router = router
        self._patience_seconds = patience_seconds

    def patient(self) -> "Connection":
        """Returns the same for what an execution cannot go on without: a failover is a pause to it, not an error."""
        return Connection(self.address, self._router, patience_seconds=_PATIENCE_SECONDS)

    @property
    def topology(self) -> Topology:
        """Which servers are primaries."""
        return self._router.topology

    async def call(self, *command: Argument) -> Any:
        """Runs a command and returns its reply, with bytes for strings. Raises LogError."""
        return (await self.pipeline([command]))[0]

    async def pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Runs commands in one round trip, not as a transaction. Raises LogError for the first that failed."""
        return [reply for (reply,) in await self._run([[each] for each in commands])]

    async def call_primaries(self, *command: Argument) -> list[Any]:
        """Runs a command at every primary and returns the replies. Raises LogError for the first that failed."""
        with self.as_log_error():
            return [_checked(each) for each in await self._router.run_everywhere(command)]

    async def node_of(self, key: str) -> TcpAddress:
        """Returns the primary that has a key. Raises LogError."""
        with self.as_log_error():
            return (await self.topology.primaries()).node_of(key)

    async def script(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Runs a script of `scripts/` and returns its reply. Raises LogError."""
        return await self.call(*evalsha(name, keys, arguments))

    async def scripts(self, name: str, calls: Sequence[ScriptCall]) -> list[Any]:
        """Runs a script several times in one round trip. Raises LogError for the first that failed."""
        return await self.pipeline([evalsha(name, keys, arguments) for keys, arguments in calls])

    async def replicated_script(
        self, name: str, keys: Sequence[str], arguments: Sequence[Argument]
    ) -> tuple[Any, bool]:
        """Runs a script, and tells whether enough replicas of Redis have what it wrote. Raises LogError."""
        if not self.address.min_replicas:
            return await self.script(name, keys, arguments), True
        wait: Command = ["WAIT", self.address.min_replicas, REPLICATION_TIMEOUT_MS]  # it is about its connection
        ((reply, count),) = await self._run([[evalsha(name, keys, arguments), wait]])
        return reply, int(count) >= self.address.min_replicas

    @contextmanager
    def as_log_error(self) -> Iterator[None]:
        """Raises failures of Redis as LogError."""
        try:
            yield
        except (RedisError, OSError) as error:
            raise LogError(f"Redis at {self.address} cannot be used: {text_of(error)}") from error

    async def _run(self, units: Sequence[Unit]) -> list[list[Any]]:
        if not units:
            return []
        deadline = time.monotonic() + self._patience_seconds
        with self.as_log_error():
            while True:
                try:
                    return [[_checked(each) for each in replies] for replies in await self._router.run(units)]
                except FAILURES:
                    if time.monotonic() >= deadline:
                        raise
                await asyncio.sleep(_RETRY_INTERVAL_SECONDS)


def _checked(reply: Any) -> Any:
    if isinstance(reply, Exception):
        raise reply
    return reply


@asynccontextmanager
async def connection(address: RedisAddress) -> AsyncIterator[Connection]:
    """Opens a pool of connections, each made when it is first needed."""
    router = Router(address)
    try:
        yield Connection(address, router)
    finally:
        await router.close()
