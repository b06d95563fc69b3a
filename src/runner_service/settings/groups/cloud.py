"""The Redis that all replicas share, and the sandboxes in Daytona."""

from pathlib import Path
from typing import Annotated

from runner_service.settings.reading import Variables, by_mode
from runner_service.settings.secret_str import SecretStr
from runner_service.settings.types import (
    Count,
    CountOrZero,
    Key,
    NetworkList,
    OwnerText,
    Port,
    Seconds,
    SecretsKey,
    TcpListText,
    UrlText,
    VolumeList,
    at_least,
)

CLOUD_ONLY = (
    "REDIS_HOST",
    "REDIS_PORT",
    "REDIS_PASSWORD",
    "REDIS_USER",
    "REDIS_TLS",
    "REDIS_TLS_CA_FILE",
    "REDIS_CLUSTER_NODES",
    "REDIS_SENTINELS",
    "REDIS_SENTINEL_MASTER",
    "REDIS_SENTINEL_USER",
    "REDIS_SENTINEL_PASSWORD",
    "SECRETS_KEY",
    "DAYTONA_API_KEY",
    "DAYTONA_API_URL",
    "DAYTONA_DEV_TOOLS_SNAPSHOT_ID",
    "DAYTONA_TARGET",
    "DAYTONA_OWNER",
    "DAYTONA_AUTO_STOP_MINUTES",
    "DAYTONA_TTL_MINUTES",
    "DAYTONA_SESSION_DAYS",
    "DAYTONA_START_TIMEOUT",
    "DAYTONA_OUTAGE_TIMEOUT",
)
"""Not looked at in local mode."""


class CloudVariables(Variables):
    """Only for cloud mode."""

    redis_host: str | None = None
    """Where the Redis is that all replicas share: events, checkpoints and the ownership of executions are there then,
    and any replica serves any execution. Unset: they are below STATE_DIR, for one service. Cloud mode only."""
    redis_port: Port | None = by_mode(None, 6379)
    """The port of Redis. Cloud mode only."""
    redis_password: SecretStr | None = None
    """The password of Redis. Cloud mode only."""
    redis_user: str | None = None
    """The ACL user of Redis that REDIS_PASSWORD belongs to. Unset: the default user. Cloud mode only."""
    redis_sentinels: TcpListText | None = None
    """Where the sentinels are that know the primary, `host:port`, separated by commas: instead of REDIS_HOST and
    REDIS_PORT. After a failover the service goes on with the new primary. Cloud mode only."""
    redis_sentinel_master: str = "mymaster"
    """The name that the sentinels have for the primary. Cloud mode only."""
    redis_sentinel_password: SecretStr | None = None
    """The password of the sentinels. Cloud mode only."""
    redis_sentinel_user: str | None = None
    """The ACL user of the sentinels that REDIS_SENTINEL_PASSWORD belongs to. Unset: the default. Cloud mode only."""
    redis_cluster_nodes: TcpListText | None = None
    """Some nodes of a Redis Cluster, `host:port`, separated by commas, which know the others: instead of REDIS_HOST and
    REDIS_PORT. Cloud mode only."""
    redis_tls: bool = False
    """Connects to Redis, and to its sentinels, with TLS, and verifies the certificate. Cloud mode only."""
    redis_tls_ca_file: Path | None = None
    """The CA of the certificate of Redis, in PEM. Unset: those of the system. Cloud mode only."""
    redis_min_replicas: CountOrZero = 0
    """How many replicas of Redis have to have a start, a claim of an execution, the start of a call or a checkpoint
    before the service acts on it, so that a failover does not lose it. With fewer, nothing new starts, and what runs
    goes on. 0 for a single Redis. Cloud mode only."""
    secrets_key: SecretsKey | None = None
    """Encrypts requests with secrets in Redis, so that another replica can resume them: 32 bytes in base64 (`openssl
    rand -base64 32`). Two, separated by a comma, while a key is replaced: the first seals, both open. Unset: secrets
    are in memory only, and an execution that had some is left INTERRUPTED when its replica dies. Cloud mode only."""
    daytona_api_key: Key | None = None
    """The key of Daytona. Required in cloud mode, not used in local mode."""
    daytona_dev_tools_snapshot_id: str | None = None
    """The snapshot that sandboxes are created from; it needs bash and Python 3.11. Unset: Daytona's default.
    Cloud mode only."""
    daytona_api_url: UrlText = "https://app.daytona.io/api"
    """Where Daytona is."""
    daytona_target: str | None = None
    """The region of sandboxes. Unset: the organisation's default."""
    daytona_owner: OwnerText = "runner-service"
    """The owner of sandboxes: a part of their names, and a label. The same for all replicas of a deployment, and unique
    in the organisation."""
    daytona_auto_stop_minutes: Count = 15
    """After how many minutes Daytona stops an unused sandbox, such as one left by a crash."""
    daytona_ttl_minutes: Count = 1440
    """After how many minutes Daytona deletes the sandbox of a single execution, used or not."""
    daytona_session_days: Count = 7
    """How many days after it was stopped Daytona deletes the sandbox of a session."""
    daytona_start_timeout: Seconds = 300.0
    """How many seconds may pass until a sandbox is ready for commands, whether it is created, started or there."""
    daytona_outage_timeout: Seconds = 300.0
    """How long a Daytona that does not answer is waited for in the middle of an execution."""
    daytona_warm_sandboxes: Annotated[int, at_least(0, 100)] = 0
    """How many sandboxes each replica keeps started for sessions to come. They cost as much as those in use."""
    daytona_network_block_all: bool = False
    """Whether sandboxes have no network. A sandbox of which Daytona reports otherwise is not used."""
    daytona_network_allow_list: NetworkList = ""
    """The only networks that sandboxes reach, such as `10.0.0.0/8,192.0.2.7/32`. Unset: all that Daytona allows. A
    sandbox of which Daytona reports otherwise is not used."""
    daytona_volumes: VolumeList = ""
    """Volumes of Daytona, and where they are mounted in new sandboxes: `name:/path,other:/other/path`."""
