"""A Redis with replicas that real sentinels watch."""

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

from redis import Redis, RedisError
from tests.ports import free_port
from tests.scale.certificates import Certificates
from tests.scale.redis_server import RedisServer, redis_server, server_program, standby_of

from runner_service.addresses import TcpAddress

PASSWORD = "who goes there"  # of sentinels that only the tests ask
_DOWN_AFTER_MS = 2000
"""For how long the primary is silent before it counts as down."""


class WatchedRedis:
    """A primary, its replicas, and the sentinels that promote one of them when the primary is down."""

    def __init__(
        self,
        servers: Sequence[RedisServer],
        sentinels: Sequence[int],
        tls_ports: Sequence[int],
        tls: Certificates | None,
    ) -> None:
        self.servers = servers
        self.sentinels = sentinels
        """Their ports."""
        self._tls_ports = tls_ports
        self._tls = tls

    @property
    def addresses(self) -> tuple[TcpAddress, ...]:
        """Where the sentinels are, after an address where nobody listens."""
        return tuple(TcpAddress("127.0.0.1", port) for port in (free_port(), *(self._tls_ports or self.sentinels)))

    @property
    def variables(self) -> dict[str, str]:
        """The settings of a service that uses it, instead of those of a single server."""
        sentinels = {"REDIS_SENTINELS": ",".join(map(str, self.addresses)), "REDIS_SENTINEL_PASSWORD": PASSWORD}
        tls = self._tls.variables if self._tls else {}
        return {"REDIS_HOST": "", "REDIS_PORT": "", "REDIS_SENTINEL_MASTER": "agents", **sentinels, **tls}

    def primary(self) -> RedisServer:
        """The server that the first sentinel names."""
        with Redis(port=self.sentinels[0], password=PASSWORD) as client:
            port = int(client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "agents")[1])
        return next(each for each in self.servers if each.service_port == port)

    async def promoted_instead_of(self, old: RedisServer, seconds: float = 90.0) -> RedisServer:
        """Waits until another server is the primary, and the replicas that are left follow it."""
        async with asyncio.timeout(seconds):
            while (new := self.primary()) is old or not await _is_followed(new):
                await asyncio.sleep(0.1)
        return new


async def _is_followed(server: RedisServer) -> bool:
    with server.client as client:
        found = await asyncio.to_thread(client.info, "replication")
    return found["role"] == "master" and int(found["connected_slaves"]) > 0


@asynccontextmanager
async def watched_redis(
    directory: Path, sentinels: int = 3, *, tls: Certificates | None = None
) -> AsyncIterator[WatchedRedis]:
    """Runs a primary with two replicas and sentinels, until the context ends."""
    async with AsyncExitStack() as stack:
        primary = await stack.enter_async_context(redis_server(directory / "0", tls=tls))
        standbys = [standby_of(primary, directory / str(each), tls=tls) for each in (1, 2)]
        replicas = [await stack.enter_async_context(each) for each in standbys]
        ports = [free_port() for _ in range(sentinels)]
        tls_ports = [free_port() for _ in ports] if tls else []
        monitors = f"monitor agents 127.0.0.1 {primary.service_port} {sentinels // 2 + 1}"
        for at, port in enumerate(ports):
            of_tls = ("--tls-port", str(tls_ports[at]), *tls.arguments) if tls else ()
            stack.enter_context(_sentinel(directory, port, monitors, of_tls))
        async with asyncio.timeout(60):
            while not all(_knows_all(port, sentinels - 1, len(replicas)) for port in ports):
                await asyncio.sleep(0.1)
        yield WatchedRedis([primary, *replicas], ports, tls_ports, tls)


def _knows_all(port: int, sentinels: int, replicas: int) -> bool:
    try:
        with Redis(port=port, password=PASSWORD) as client:
            found = client.sentinel_master("agents")
    except (OSError, RedisError):
        return False
    return (found["num-other-sentinels"], found["num-slaves"]) == (sentinels, replicas)


@contextmanager
def _sentinel(directory: Path, port: int, monitors: str, arguments: Sequence[str]) -> Iterator[None]:
    path = directory / f"sentinel-{port}.conf"  # which the sentinel writes as well
    lines = [
        f"port {port}",
        "bind 127.0.0.1",
        f"dir {directory}",
        f"requirepass {json.dumps(PASSWORD)}",
        f"sentinel sentinel-pass {json.dumps(PASSWORD)}",
        f"sentinel {monitors}",
        f"sentinel down-after-milliseconds agents {_DOWN_AFTER_MS}",
        f"sentinel failover-timeout agents {3 * _DOWN_AFTER_MS}",
        "sentinel parallel-syncs agents 2",
        *(f"{name.removeprefix('--')} {value}" for name, value in zip(arguments[::2], arguments[1::2], strict=True)),
    ]
    path.write_text("\n".join([*lines, ""]))
    with (directory / f"sentinel-{port}.log").open("ab") as log:
        process = subprocess.Popen([server_program(), str(path), "--sentinel"], stdout=log, stderr=log)
    try:
        yield
    finally:
        process.kill()
        process.wait()
