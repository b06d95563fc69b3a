"""Where Redis is, how to log in, and how long it may take."""

from dataclasses import dataclass, field
from typing import Any

from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from runner_service.addresses import TcpAddress, tcp_addresses
from runner_service.settings import Settings

TIMEOUT_SECONDS = 5.0
CONNECT_TIMEOUT_SECONDS = 2.0
REPLICATION_TIMEOUT_MS = 200
_DISCOVERY_TIMEOUT_SECONDS = 1.0
_DEFAULT_PORT = 6379


@dataclass(frozen=True)
class Sentinels:
    """The sentinels that know which server is the primary."""

    nodes: tuple[TcpAddress, ...]
    master: str = "mymaster"
    """The name that they have for it."""
    password: str | None = field(default=None, repr=False)
    user: str | None = None


@dataclass(frozen=True)
class RedisAddress:
    """Where Redis is, and how to log in. With `sentinels` or `cluster`, host and port are not used."""

    host: str = ""
    port: int = _DEFAULT_PORT
    password: str | None = field(default=None, repr=False)
    user: str | None = None
    tls_ca_file: str | None = None
    tls: bool = False
    min_replicas: int = 0
    """How many replicas of Redis have to have a write before anything is done because of it."""
    sentinels: Sentinels | None = None
    cluster: tuple[TcpAddress, ...] = ()
    """Some nodes of a cluster, which know the others."""

    def __str__(self) -> str:
        if self.sentinels:
            return f"{self.sentinels.master} (sentinels {', '.join(map(str, self.sentinels.nodes))})"
        if self.cluster:
            return f"the cluster of {', '.join(map(str, self.cluster))}"
        return str(TcpAddress(self.host, self.port))

    def arguments(self, node: TcpAddress) -> dict[str, Any]:
        """Returns what redis-py takes for a server that holds data. Nothing is tried again below `Connection`."""
        login = {"password": self.password, "username": self.user}
        timeouts = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": CONNECT_TIMEOUT_SECONDS}
        return {"host": node.host, "port": node.port, **login, **timeouts, **self._common()}

    def discovery_arguments(self, node: TcpAddress) -> dict[str, Any]:
        """Returns what redis-py takes for a server that is asked where the others are."""
        return self.arguments(node) | _DISCOVERY_TIMEOUTS

    def sentinel_arguments(self) -> dict[str, Any]:
        """Returns what redis-py takes for sentinels, besides host and port."""
        sentinels = self.sentinels
        login = {"password": sentinels.password, "username": sentinels.user} if sentinels else {}
        return {**login, **_DISCOVERY_TIMEOUTS, **self._common()}

    def _common(self) -> dict[str, Any]:
        tls = {"ssl": True, "ssl_ca_certs": self.tls_ca_file} if self.tls else {}
        return {"retry": Retry(NoBackoff(), 0), **tls}


_DISCOVERY_TIMEOUTS = {
    "socket_timeout": _DISCOVERY_TIMEOUT_SECONDS,
    "socket_connect_timeout": _DISCOVERY_TIMEOUT_SECONDS,
}


def redis_address(settings: Settings) -> RedisAddress:
    """Returns where the Redis of the settings is; `settings.has_redis()`."""
    password, ca_file = settings.redis_password, settings.redis_tls_ca_file
    return RedisAddress(
        settings.redis_host or "",
        settings.redis_port or _DEFAULT_PORT,
        password.get_secret_value() if password else None,
        user=settings.redis_user,
        tls=settings.redis_tls,
        min_replicas=settings.redis_min_replicas,
        tls_ca_file=str(ca_file) if ca_file else None,
        sentinels=_sentinels(settings),
        cluster=tuple(tcp_addresses(settings.redis_cluster_nodes)) if settings.redis_cluster_nodes else (),
    )


def _sentinels(settings: Settings) -> Sentinels | None:
    if settings.redis_sentinels is None:
        return None
    password = settings.redis_sentinel_password
    return Sentinels(
        tuple(tcp_addresses(settings.redis_sentinels)),
        settings.redis_sentinel_master,
        password.get_secret_value() if password else None,
        settings.redis_sentinel_user,
    )
