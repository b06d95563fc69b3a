"""Every environment variable that the service reads, with its type, default and meaning.

The docstring below a field is its documentation, for `runner-service check` and for docs/configuration.md.
"""

from base64 import b64decode
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from runner_service.addresses import overlap, parse_address
from runner_service.identity import DEFAULT_TENANT
from runner_service.settings.machine import (
    default_command_memory,
    default_command_processes,
    default_concurrency,
)
from runner_service.settings.reading import Computed, Problem, SettingsError, Variables, is_secret
from runner_service.settings.secret_str import SecretStr
from runner_service.settings.types import (
    AddressListText,
    AddressText,
    Count,
    CountOrZero,
    FilesLevel,
    HostList,
    Key,
    NetworkLevel,
    NetworkList,
    OwnerText,
    PathList,
    Port,
    Seconds,
    SecondsOrZero,
    SecretsKey,
    TcpListText,
    TcpText,
    TenantText,
    Token,
    UrlText,
    VolumeList,
    at_least,
    in_any_case,
    split_addresses,
)
from runner_service.state_dir import default_state_dir

T = TypeVar("T")
Provider = Literal["openai", "anthropic", "ollama", "scripted"]

DUMMY_API_KEY = "dummy-local-key"
"""What the daemon expects in local mode. Public, so not a secret."""

_DEFAULT_ADDRESS, _ADDRESS_BESIDE_DAEMON = "localhost:50051", "localhost:50052"
_CLOUD_ONLY_VARIABLES = (
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
_DEFAULT_MODELS = {"ollama": "qwen2.5-coder:7b", "anthropic": "claude-sonnet-4.5", "scripted": "scripted"}


def _computed(default: Callable[[Mapping[str, Any]], object]) -> Any:  # of the type of its attribute
    return Computed(default)


def _by_mode(local: T, cloud: T) -> Any:  # as above
    return Computed(lambda data: local if data["mode"] == "local" else cloud)


def _default_listen_address(data: Mapping[str, Any]) -> str:
    daemon = data["stigmer_backend_endpoint"]
    taken = daemon is not None and overlap(parse_address(daemon), parse_address(_DEFAULT_ADDRESS))
    return _ADDRESS_BESIDE_DAEMON if taken else _DEFAULT_ADDRESS


def _default_state_dir(data: Mapping[str, Any]) -> Path:
    return default_state_dir(data["home"], data["xdg_state_home"])


def _default_model_key(data: Mapping[str, Any]) -> SecretStr | None:
    keys = {"openai": data["openai_api_key"], "anthropic": data["anthropic_api_key"]}
    return keys.get(data["stigmer_llm_provider"])


class Settings(Variables):
    """The whole environment of the service. An empty value counts as none; quotes in a value are part of it."""

    mode: Literal["local", "cloud"] = "cloud"
    """Where tools run: `local`, in a directory of this machine, or `cloud`, in Daytona sandboxes."""
    env: Literal["development", "staging", "production"] = "development"
    """The stage of the deployment, a mark on logs and traces. Never a mode."""
    sandbox_type: Literal["filesystem", "daytona"] = _by_mode("filesystem", "daytona")
    """The kind of sandbox. Follows the mode."""
    workspace_root: str | None = None
    """What SANDBOX_ROOT_DIR is when it is not set: the daemon starts a runner with this variable."""
    sandbox_root_dir: str = _computed(lambda data: data["workspace_root"] or "./workspace")
    """The directory that the tools work in, created when missing. Local mode only."""
    sandbox_scope: Literal["shared", "session"] = "shared"
    """`shared`: all executions work in SANDBOX_ROOT_DIR. `session`: each session has its own directory below it."""
    sandbox_track_changes: Literal["auto", "off"] = "auto"
    """Whether changes of files are tracked, so that they can be listed and taken back."""
    sandbox_confinement: Annotated[FilesLevel, in_any_case] = "none"
    """The least confinement of files for every execution: `none`, `workspace`, `read_only` or `strict`; a request can \
only tighten it. Local mode on Linux, with bubblewrap; where it cannot be had, executions are refused."""
    sandbox_network: Annotated[NetworkLevel, in_any_case] = "all"
    """The least confinement of the network for every execution: `all`, `proxy` (SANDBOX_ALLOWED_HOSTS alone, by a \
proxy of the service) or `none`. Other than `all` it needs SANDBOX_CONFINEMENT."""
    sandbox_allowed_hosts: HostList = ""
    """What SANDBOX_NETWORK=proxy lets through, separated by commas: `HOST`, `*.DOMAIN` or an address, with `:PORT` \
for others than 80 and 443. Private addresses are reached only when named as addresses."""
    sandbox_readable_paths: PathList = ""
    """Absolute paths, separated by `:`, that confined executions may read although their level hides them."""
    sandbox_writable_paths: PathList = ""
    """Absolute paths, separated by `:`, that confined executions may write as well."""
    sandbox_hidden_paths: PathList = ""
    """Absolute paths, separated by `:`, that are hidden from confined executions as well."""
    sandbox_cache_max_bytes: Count = 4 << 30
    """How many bytes the private caches and /tmp directories of confined sessions may take together, between \
executions; the least recently used go first."""
    sandbox_cache_max_age: Seconds = 7 * 24 * 3600.0
    """How many seconds the private cache and /tmp of a confined session are kept without use."""
    sandbox_max_memory_bytes: CountOrZero = _computed(lambda _: default_command_memory())
    """How many bytes of memory the commands of an execution may use together; 0 is any number. The default is three \
quarters of the memory of the machine, or of the container if that is less; in cloud mode, of the sandbox. Linux \
only."""
    sandbox_max_processes: CountOrZero = _computed(lambda _: default_command_processes())
    """How many processes the commands of an execution may have together; 0 is any number. The default is 4096, but at \
most half of what the machine, the container and the user may have; in cloud mode, in the sandbox. Linux only."""
    sandbox_max_cpu_seconds: SecondsOrZero = 0.0
    """How many seconds of CPU time one command may use, with all its processes; 0 is any number. Linux only."""

    approval_policy_file: Path | None = None
    """A YAML file with the operator's approval policy (docs/approvals.md), which holds for every execution."""
    prices_file: Path | None = None
    """Prices of models, in YAML, by which `finished`, `GetExecution` and the metrics tell what executions cost. See \
docs/operations.md."""
    approval_webhook_url: UrlText | None = None
    """Where each new request for approval is announced, as a POST of JSON. Unset: nowhere."""
    approval_webhook_secret: SecretStr | None = None
    """Signs announcements: `X-Runner-Signature` is `sha256=` and the HMAC-SHA256 of `X-Runner-Timestamp`, `.` and \
the body, in hexadecimal."""
    approval_hold: SecondsOrZero = 60.0
    """How many seconds a tool call that waits for approval keeps its execution running; then it is parked, WAITING."""
    approval_hold_background: SecondsOrZero = 900.0
    """The same, if longer, once a command of the execution has left processes running: parking ends them, with the \
notice BACKGROUND_ENDED."""

    stigmer_backend_endpoint: AddressText | None = None
    """The Stigmer daemon or cloud, `host:port`; TLS when the port is 443. Unset: there is none."""
    stigmer_tenant: TenantText = DEFAULT_TENANT
    """The tenant of what the daemon has, and of what comes through Temporal: others' ids are never looked up there."""
    stigmer_unattended: bool = True
    """Whether nobody can approve tool calls of executions of the Stigmer daemon, which knows no approvals: those that \
an approval policy asks about are skipped."""
    stigmer_api_key: SecretStr | None = _by_mode(SecretStr(DUMMY_API_KEY), None)
    """The key for STIGMER_BACKEND_ENDPOINT. Required in cloud mode."""

    listen_address: AddressListText = _computed(_default_listen_address)
    """Where to listen: `host:port`, `[IPv6]:port` or `unix:PATH`; port 0 takes a free one. Several are separated \
by commas. Beyond loopback it needs a token, CALLERS_FILE or TLS_CLIENT_CA_FILE. The default is \
localhost:50051, or localhost:50052 when the daemon is at 50051."""
    mcp_allowed_networks: NetworkList = ""
    """Private networks that HTTP MCP servers may be in when MODE is cloud, as `10.1.0.0/16`, separated by commas. \
Public addresses are always allowed, link-local and metadata addresses never; with MODE=local private ones are, too."""
    health_address: AddressText | None = None
    """Where else health can be asked for, in the form of LISTEN_ADDRESS: by probes, without TLS and token, over \
connections that callers cannot use up. Unset: only at LISTEN_ADDRESS."""
    auth_token: Token | None = None
    """The bearer token that callers must send. Health checks need none."""
    auth_token_file: Path | None = None
    """A file that holds the token instead; read again when it changes."""
    callers_file: Path | None = None
    """A YAML file that names callers, by tokens, issuers, certificates and sockets, with their tenants and roles \
(docs/security.md); read again when it changes. With it nobody is anonymous; AUTH_TOKEN is the operator's."""
    tls_cert_file: Path | None = None
    """The server's certificate chain, PEM. Turns TLS on."""
    tls_key_file: Path | None = None
    """The private key of TLS_CERT_FILE, PEM."""
    tls_client_ca_file: Path | None = None
    """CA certificates, PEM; one must have signed every caller's certificate (mTLS)."""
    tls_client_addresses: AddressListText | None = None
    """Which of LISTEN_ADDRESS ask for such a certificate, separated by commas; at the others a token is enough. \
Unset: all of them."""

    home: Path | None = None
    """The base of STATE_DIR when neither it nor XDG_STATE_HOME is set."""
    xdg_state_home: Path | None = None
    """The base of STATE_DIR when it is not set itself."""
    state_dir: Annotated[Path, Path.absolute] = _computed(_default_state_dir)
    """The directory of the event log, outputs and checkpoints. The default follows XDG."""
    log_max_age: Seconds = 7 * 24 * 3600.0
    """How many seconds finished executions are kept in the event log."""
    execution_max_bytes: CountOrZero = 1 << 30
    """How many bytes of events and output one execution may store, and add to its private /tmp and caches if it is \
confined; output beyond it is dropped, with more of anything else it ends as LIMIT_EXCEEDED. 0 means no limit."""
    state_min_free_bytes: CountOrZero = 64 << 20
    """How many bytes should stay free on the disk of STATE_DIR, at most a twentieth of it: below that the running \
execution that has stored most ends as LIMIT_EXCEEDED. 0 means any number. Beside it a reserve of 16 MiB is held, in \
which ends are stored when other programs fill the disk."""
    log_max_bytes: Count = 2 << 30
    """The maximum size of the event log in bytes; the oldest finished executions are deleted first."""

    changes_max_bytes: CountOrZero = _by_mode(1 << 30, 256 << 20)
    """How many bytes of contents of changed files are kept, compressed, so that changes can be shown and taken back; \
those of the oldest executions are deleted first."""

    audit_keep: Seconds = 30 * 24 * 3600.0
    """How many seconds entries of the audit are kept, of which there are at most 100,000."""

    drain_timeout: SecondsOrZero = _by_mode(4.0, 300.0)
    """How many seconds executions may take to finish after SIGTERM. The daemon kills after 10."""
    resume_on_start: bool = False
    """Whether interrupted executions are resumed at start, if they had no secrets."""
    disconnect_grace: SecondsOrZero = 5.0
    """How many seconds an execution waits for its last caller to come back before it is cancelled."""
    kill_grace: SecondsOrZero = 2.0
    """How many seconds a process has between SIGTERM and SIGKILL."""

    max_concurrent_executions: Count = _computed(lambda _: default_concurrency())
    """How many executions run at once; the others are queued. The default is 64 for each core of the machine, at
    most 256 and at most one for 4 MiB of memory, but at least 16."""
    max_queued_executions: CountOrZero = 1000
    """How many executions may be queued, over all replicas; further ones are refused with RESOURCE_EXHAUSTED."""

    default_timeout: Seconds = 1800.0
    """How many seconds an execution may take when its request does not say."""
    default_command_timeout: Seconds = 120.0
    """How many seconds one command may run when the request does not say."""
    default_max_model_calls: Count = 200
    """How many model calls an execution may make when its request does not say."""
    default_max_tool_calls: Count = 1000
    """How many tool calls an execution may make when its request does not say."""
    default_max_total_tokens: Count = 5_000_000
    """How many tokens an execution may use when its request does not say."""
    default_max_output_bytes: Count = 1 << 30
    """How many bytes of output of one command are kept when the request does not say."""

    mcp_start_timeout: Seconds = 30.0
    """How long an MCP server may take to start and to list its tools. One that installs itself first needs minutes."""

    max_repeated_calls: CountOrZero = 10
    """How many tool calls in a row may bring nothing new (same call, same result) before the execution is ended as
    LOOP_DETECTED; after three the model is told. Calls of more than 2 seconds, such as polling, do not count. 0 allows
    any number."""
    stigmer_llm_provider: Provider = _by_mode("ollama", "anthropic")
    """The model provider: `openai` (and compatible endpoints), `anthropic`, `ollama` or `scripted`."""
    stigmer_llm_model: str = _computed(lambda data: _DEFAULT_MODELS.get(data["stigmer_llm_provider"], ""))
    """The model's name. Without a default for `openai`: set it, or let each request name one."""
    ollama_base_url: UrlText = "http://localhost:11434"
    """Where Ollama is, unless STIGMER_LLM_BASE_URL says it."""
    stigmer_llm_base_url: UrlText | None = _computed(
        lambda data: data["ollama_base_url"] if data["stigmer_llm_provider"] == "ollama" else None
    )
    """Where the provider is. The default is the provider's own."""
    anthropic_api_key: Key | None = None
    """The key for `anthropic`, unless STIGMER_LLM_API_KEY says it."""
    openai_api_key: Key | None = None
    """The key for `openai`, unless STIGMER_LLM_API_KEY says it."""
    stigmer_llm_api_key: Key | None = _computed(_default_model_key)
    """The key of STIGMER_LLM_PROVIDER. Without it the service starts, but executions that need it are refused."""
    stigmer_llm_first_token_timeout: Seconds | None = None
    """How many seconds the model may take to its first token. The default is 300 for `ollama` and for endpoints on \
this machine, which load the model first and read long prompts slowly, else 60."""
    stigmer_llm_idle_timeout: Seconds = 60.0
    """How many seconds the provider may send nothing after the first token. Comments in its stream count as life."""
    stigmer_llm_context_tokens: CountOrZero = 0
    """The context that `ollama` is asked for in tokens (num_ctx), since its default cuts long prompts off in silence.
    0: enough for the prompt, in steps from 16384. Other providers decide by themselves."""
    stigmer_llm_max_tokens: Count = _by_mode(8192, 20000)
    """How many tokens one answer of the model may have."""
    stigmer_llm_temperature: Annotated[float, at_least(0, 2)] | None = _by_mode(0.0, None)
    """The temperature, 0 to 2. Unset in cloud mode: the provider's own."""
    stigmer_llm_script: Path | None = None
    """The file of turns that `scripted` plays. Unset: a small demonstration."""

    redis_host: str | None = None
    """Where the Redis is that all replicas share: events, checkpoints and the ownership of executions are there then,
    and any replica serves any execution. Unset: they are below STATE_DIR, for one service. Cloud mode only."""
    redis_port: Port | None = _by_mode(None, 6379)
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

    temporal_service_address: AddressText = "localhost:7233"
    """The address of Temporal. The worker runs when this variable or TASK_QUEUE is set. Needs the extra `temporal`."""
    temporal_namespace: str = "default"
    """The namespace in Temporal."""
    task_queue: str | None = None
    """What TEMPORAL_AGENT_EXECUTION_RUNNER_TASK_QUEUE is when it is not set: the daemon starts a runner with this \
variable."""
    temporal_agent_execution_runner_task_queue: str = _computed(
        lambda data: data["task_queue"] or "agent_execution_runner"
    )
    """The task queue that the worker polls."""
    temporal_max_concurrency: Count = 10
    """How many activities the worker accepts at once, which takes milliseconds; MAX_CONCURRENT_EXECUTIONS is how many \
executions run at once."""
    temporal_heartbeat_interval: Seconds = _by_mode(1.0, 5.0)
    """Seconds between the heartbeats of an activity. A cancellation takes as long, and one second, to arrive."""
    temporal_lost_attempt: Literal["fail", "continue"] = "fail"
    """What becomes of an execution whose activity Temporal has given up, since no heartbeat came in time: it ends as \
FAILED, or runs on and is reported to the daemon."""
    temporal_api_key: SecretStr | None = None
    """The key of Temporal Cloud. Turns TLS on."""
    temporal_tls: bool = False
    """Whether Temporal is called over TLS."""
    temporal_tls_server_ca_cert_path: Path | None = None
    """Authorities of Temporal's certificate, PEM, instead of the system's. Turns TLS on."""
    temporal_tls_client_cert_path: Path | None = None
    """The client certificate for Temporal, PEM. Turns TLS on."""
    temporal_tls_client_key_path: Path | None = None
    """The private key of TEMPORAL_TLS_CLIENT_CERT_PATH, PEM."""
    temporal_tls_server_name: str | None = None
    """The name in Temporal's certificate, when it is not that of TEMPORAL_SERVICE_ADDRESS."""

    log_level: Annotated[Literal["debug", "info", "warning", "error"], in_any_case] = "info"
    """The lowest level of log lines."""
    log_format: Annotated[Literal["text", "json"], in_any_case] = "text"
    """Log lines for people, or one JSON object each."""
    metrics_address: TcpText | None = None
    """Where Prometheus reads metrics, `host:port`, at the path /metrics; port 0 takes a free one. Unset: nowhere. It \
has the service's TLS, and needs its token or, if there are no tokens, a client certificate; beyond loopback one of \
them must be set. There are numbers and the names of models and tools, but no content."""
    web_address: TcpText | None = None
    """Where the page for browsers is, `host:port`; port 0 takes a free one. Unset: nowhere. Beyond loopback it needs \
TLS_CERT_FILE, and tokens or TLS_CLIENT_CA_FILE. See docs/page.md."""
    web_hosts: HostList = ""
    """More names by which browsers reach the page, separated by commas: those of a proxy before it. Needs tokens."""
    web_token: Token | None = None
    """The only token that the page takes, as the operator's. Unset: it takes those that the rpcs take."""
    otel_sdk_disabled: bool = False
    """Turns tracing and metrics off, whatever else is set."""
    otel_traces_exporter: str = "otlp"
    """`none` turns tracing off. The service can only export by `otlp`."""
    otel_metrics_exporter: str = "otlp"
    """`none` keeps metrics from being sent to a collector. The service can only send them by `otlp`."""
    otel_exporter_otlp_endpoint: UrlText | None = None
    """The collector that spans and metrics go to, by OTLP over HTTP, below /v1/traces and /v1/metrics. Other OTEL_* \
variables hold as well."""
    otel_exporter_otlp_traces_endpoint: UrlText | None = None
    """The whole URL that spans go to, instead."""
    otel_exporter_otlp_metrics_endpoint: UrlText | None = None
    """The whole URL that metrics go to, instead."""
    otel_exporter_otlp_headers: SecretStr | None = None
    """Headers for the collector, `name=value,…`."""
    otel_exporter_otlp_traces_headers: SecretStr | None = None
    """Headers for OTEL_EXPORTER_OTLP_TRACES_ENDPOINT, instead."""
    otel_exporter_otlp_metrics_headers: SecretStr | None = None
    """Headers for OTEL_EXPORTER_OTLP_METRICS_ENDPOINT, instead."""
    otel_exporter_otlp_protocol: str = "http/protobuf"
    """How spans and metrics are sent. The service can only do `http/protobuf`."""

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> tuple["Settings", list[Problem]]:
        """As `Variables.read`. In local mode what belongs to the cloud is not even looked at."""
        unread = _CLOUD_ONLY_VARIABLES if environ.get("MODE") == "local" else ()
        return super().read({name: value for name, value in environ.items() if name not in unread})

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "Settings":
        """Reads `environ` and nothing else: no file, no other variables.

        Raises:
            SettingsError: some values have the wrong form. `load_settings` checks more.
        """
        settings, problems = cls.read(environ)
        if problems:
            raise SettingsError(problems)
        return settings

    def is_local_mode(self) -> bool:
        """Tells whether tools run on this machine."""
        return self.mode == "local"

    def has_redis(self) -> bool:
        """Tells whether replicas share a Redis."""
        return bool(self.redis_host or self.redis_sentinels or self.redis_cluster_nodes)

    def runs_temporal_worker(self) -> bool:
        """Tells whether activities are taken from Temporal: one of the two variables was set explicitly."""
        return bool({"temporal_service_address", "task_queue"} & self.given)

    def exports_traces(self) -> bool:
        """Tells whether spans go to a collector."""
        endpoint = self.otel_exporter_otlp_traces_endpoint or self.otel_exporter_otlp_endpoint
        return endpoint is not None and not self.otel_sdk_disabled and self.otel_traces_exporter != "none"

    def exports_metrics(self) -> bool:
        """Tells whether metrics go to a collector."""
        endpoint = self.otel_exporter_otlp_metrics_endpoint or self.otel_exporter_otlp_endpoint
        return endpoint is not None and not self.otel_sdk_disabled and self.otel_metrics_exporter != "none"

    def secret_files(self) -> list[Path]:
        """Returns the files that variables name: keys, tokens and policies, which no confined execution may see."""
        values = (getattr(self, name) for name in self.names() if name.endswith("_file"))
        return [value for value in values if isinstance(value, Path)]

    def get_sandbox_config(self) -> dict[str, str]:
        """Returns what the sandbox is made of: its `type`, with `root_dir` or, if there is one, `snapshot_id`."""
        if self.is_local_mode():
            return {"type": self.sandbox_type, "root_dir": self.sandbox_root_dir}
        snapshot = self.daytona_dev_tools_snapshot_id
        return {"type": self.sandbox_type} | ({"snapshot_id": snapshot} if snapshot else {})

    def llm_api_key(self, provider: Provider) -> SecretStr | None:
        """Returns the key for `provider`; for one that is not the configured one, only its own variable counts."""
        if provider == self.stigmer_llm_provider:
            return self.stigmer_llm_api_key
        return {"openai": self.openai_api_key, "anthropic": self.anthropic_api_key}.get(provider)

    def llm_base_url(self, provider: Provider) -> str | None:
        """Returns where `provider` is. None: where its own library says."""
        if provider == self.stigmer_llm_provider:
            return self.stigmer_llm_base_url
        return self.ollama_base_url if provider == "ollama" else None

    def authenticates(self) -> bool:
        """True if callers need a token or a certificate."""
        return self.has_tokens() or self.tls_client_ca_file is not None

    def has_tokens(self) -> bool:
        """True if callers can be told by tokens."""
        return bool(self.auth_token or self.auth_token_file or self.callers_file)

    def listen_addresses(self) -> list[str]:
        """Returns the addresses of LISTEN_ADDRESS."""
        return split_addresses(self.listen_address)

    def certificate_addresses(self) -> list[str]:
        """Returns those of LISTEN_ADDRESS that ask for client certificates."""
        if self.tls_client_ca_file is None:
            return []
        return split_addresses(self.tls_client_addresses or self.listen_address)

    def secrets_keys(self) -> list[bytes]:
        """Returns the keys of SECRETS_KEY, the one that seals first."""
        return [b64decode(each) for each in self.secrets_key.get_secret_value().split(",")] if self.secrets_key else []

    def secrets(self) -> list[str]:
        """Returns every secret value of the service itself, for redaction. Reads AUTH_TOKEN_FILE: some microseconds."""
        values = [getattr(self, name) for name in secret_names()]
        secrets = {value.get_secret_value() for value in values if value}
        headers = (
            self.otel_exporter_otlp_headers,
            self.otel_exporter_otlp_traces_headers,
            self.otel_exporter_otlp_metrics_headers,
        )
        for header in ",".join(each.get_secret_value() for each in headers if each).split(","):
            secrets.add(header.partition("=")[2].strip())
        if self.auth_token_file is not None:
            with suppress(OSError, UnicodeDecodeError):
                secrets.add(self.auth_token_file.read_text().strip())
        return sorted(secrets - {"", DUMMY_API_KEY})


@cache
def secret_names() -> Sequence[str]:
    """Returns the attributes that hold secrets."""
    return [name for name in Settings.names() if is_secret(Settings.__annotations__[name])]
