"""Temporal, log lines, metrics, the page for browsers, and what goes to a collector."""

from pathlib import Path
from typing import Annotated, Literal

from runner_service.settings.reading import Variables, by_mode, computed
from runner_service.settings.secret_str import SecretStr
from runner_service.settings.types import AddressText, Count, HostList, Seconds, TcpText, Token, UrlText, in_any_case


class OperationVariables(Variables):
    """OTEL_* are the standard's names."""

    temporal_service_address: AddressText = "localhost:7233"
    """The address of Temporal. The worker runs when this variable or TASK_QUEUE is set. Needs the extra `temporal`."""
    temporal_namespace: str = "default"
    """The namespace in Temporal."""
    task_queue: str | None = None
    """What TEMPORAL_AGENT_EXECUTION_RUNNER_TASK_QUEUE is when it is not set: the daemon starts a runner with this \
variable."""
    temporal_agent_execution_runner_task_queue: str = computed(
        lambda data: data["task_queue"] or "agent_execution_runner"
    )
    """The task queue that the worker polls."""
    temporal_max_concurrency: Count = 10
    """How many activities the worker accepts at once, which takes milliseconds; MAX_CONCURRENT_EXECUTIONS is how many \
executions run at once."""
    temporal_heartbeat_interval: Seconds = by_mode(1.0, 5.0)
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
