"""The connection to Redis: plain commands, pipelines and scripts. Every failure is a LogError."""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from redis import RedisError
from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import ExponentialBackoff
from redis.exceptions import NoScriptError

from runner_service.settings import Settings
from runner_service.storage.event_log import LogError

Argument = str | bytes | int | float

TIMEOUT_SECONDS = 5.0
CONNECT_TIMEOUT_SECONDS = 2.0
REPLICATION_TIMEOUT_MS = 200
_MAX_BACKOFF_SECONDS, _MIN_BACKOFF_SECONDS, _RETRIES = 0.2, 0.02, 2
_MAX_CONNECTIONS = 64
_DEFAULT_PORT = 6379
_SUBSCRIPTIONS = 8


@dataclass(frozen=True)
class RedisAddress:
    """Where Redis is, and how to log in."""

    host: str
    port: int
    password: str | None = field(default=None, repr=False)
    user: str | None = None
    tls_ca_file: str | None = None
    tls: bool = False
    min_replicas: int = 0
    """How many replicas of Redis have to have a write before anything is done because of it."""

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"

    def arguments(self) -> dict[str, Any]:
        """Returns what redis-py takes."""
        given: dict[str, Any] = {
            "host": self.host,
            "port": self.port,
            "password": self.password,
            "username": self.user,
            "socket_timeout": TIMEOUT_SECONDS,
            "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS,
        }
        if self.tls:
            given |= {"ssl": True, "ssl_ca_certs": self.tls_ca_file}
        return given


def redis_address(settings: Settings) -> RedisAddress:
    """Returns where the Redis of the settings is; REDIS_HOST is set."""
    password, ca_file = settings.redis_password, settings.redis_tls_ca_file
    return RedisAddress(
        settings.redis_host or "",
        settings.redis_port or _DEFAULT_PORT,
        password.get_secret_value() if password else None,
        user=settings.redis_user,
        tls=settings.redis_tls,
        min_replicas=settings.redis_min_replicas,
        tls_ca_file=str(ca_file) if ca_file else None,
    )


@cache
def script(name: str) -> tuple[bytes, str]:
    """Returns the text of a script of `scripts/`, and its digest."""
    text = resources.files("runner_service.storage.redis").joinpath("scripts", f"{name}.lua").read_bytes()
    return text, hashlib.sha1(text, usedforsecurity=False).hexdigest()


class Connection:
    """Redis, as the storage uses it. Construct it with `connection`."""

    def __init__(self, client: Any, address: RedisAddress) -> None:
        self._client = client
        self._calls = asyncio.Semaphore(_MAX_CONNECTIONS - _SUBSCRIPTIONS)  # the pool refuses what exceeds it
        self.address = address

    async def call(self, *command: Argument) -> Any:
        """Runs a command and returns its reply, with bytes for strings. Raises LogError."""
        with self.as_log_error():
            return await self._execute(*command)

    async def pipeline(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Runs commands in one round trip, not as a transaction. Raises LogError for the first that failed."""
        if not commands:
            return []
        with self.as_log_error():
            return await self._run_pipeline(commands, raise_on_error=True)

    async def script(self, name: str, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """Runs a script of `scripts/` and returns its reply. Raises LogError."""
        return (await self.scripts(name, [(keys, arguments)]))[0]

    async def scripts(self, name: str, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]) -> list[Any]:
        """Runs a script several times in one round trip. Raises LogError for the first that failed."""
        text, digest = script(name)
        commands: list[list[Argument]] = [["EVALSHA", digest, len(keys), *keys, *rest] for keys, rest in calls]
        with self.as_log_error():
            if len(commands) == 1:
                try:
                    return [await self._execute(*commands[0])]
                except NoScriptError:
                    await self._client.script_load(text)
                    return [await self._execute(*commands[0])]
            replies = await self._run_pipeline(commands, raise_on_error=False)
            missing = [at for at, reply in enumerate(replies) if isinstance(reply, NoScriptError)]
            if missing:
                await self._client.script_load(text)
                again = await self._run_pipeline([commands[at] for at in missing], raise_on_error=False)
                for at, reply in zip(missing, again, strict=True):
                    replies[at] = reply
            for reply in replies:
                if isinstance(reply, Exception):
                    raise reply
            return replies

    async def replicated_script(
        self, name: str, keys: Sequence[str], arguments: Sequence[Argument]
    ) -> tuple[Any, bool]:
        """Runs a script, and tells whether enough replicas of Redis have what it wrote. Raises LogError."""
        if not self.address.min_replicas:
            return await self.script(name, keys, arguments), True
        text, digest = script(name)
        commands: list[list[Argument]] = [["EVALSHA", digest, len(keys), *keys, *arguments], self.wait_command]
        with self.as_log_error():
            reply, count = await self._run_pipeline(commands, raise_on_error=False)  # WAIT is about its connection
            if isinstance(reply, NoScriptError):
                await self._client.script_load(text)
                reply, count = await self._run_pipeline(commands, raise_on_error=False)
            for each in (reply, count):
                if isinstance(each, Exception):
                    raise each
        return reply, int(count) >= self.address.min_replicas

    @property
    def wait_command(self) -> list[Argument]:
        """The command that waits for the replicas of Redis to have what its connection has written."""
        return ["WAIT", self.address.min_replicas, REPLICATION_TIMEOUT_MS]

    async def _execute(self, *command: Argument) -> Any:
        async with self._calls:
            return await self._client.execute_command(*command)

    async def _run_pipeline(self, commands: Sequence[Sequence[Argument]], *, raise_on_error: bool) -> list[Any]:
        async with self._calls, self._client.pipeline(transaction=False) as pipeline:
            for command in commands:
                pipeline.execute_command(*command)
            replies: list[Any] = await pipeline.execute(raise_on_error=raise_on_error)
            return replies

    @asynccontextmanager
    async def subscription(self) -> AsyncIterator[PubSub]:
        """Opens a connection that subscribes to channels."""
        async with self._client.pubsub(ignore_subscribe_messages=False) as subscription:
            yield subscription

    @contextmanager
    def as_log_error(self) -> Iterator[None]:
        """Raises failures of Redis as LogError."""
        try:
            yield
        except (RedisError, OSError, TimeoutError) as error:
            raise LogError(f"Redis at {self.address} cannot be used: {error or type(error).__name__}") from error


@asynccontextmanager
async def connection(address: RedisAddress) -> AsyncIterator[Connection]:
    """Opens a pool of connections, each made when it is first needed."""
    retry = Retry(ExponentialBackoff(cap=_MAX_BACKOFF_SECONDS, base=_MIN_BACKOFF_SECONDS), _RETRIES)
    client = Redis(**address.arguments(), max_connections=_MAX_CONNECTIONS, retry=retry)
    try:
        yield Connection(client, address)
    finally:
        await client.aclose()
