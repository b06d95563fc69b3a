"""The connection to Temporal: established in the background, monitored, never required."""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta
from functools import cache

from temporalio.api.workflowservice.v1 import GetSystemInfoRequest
from temporalio.client import Client, Interceptor, TLSConfig
from temporalio.contrib.opentelemetry import TracingInterceptor
from temporalio.runtime import LogForwardingConfig, LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter
from temporalio.service import RPCError

from runner_service.retries import exponential_backoff, retry
from runner_service.settings import Settings
from runner_service.telemetry.spans import current_tracer

logger = logging.getLogger(__name__)

OnConnectionChange = Callable[[bool], None]

CONNECT_TIMEOUT_SECONDS = 5.0
"""How long Temporal may take to accept a connection."""

PROBE_TIMEOUT_SECONDS = 3.0
"""Deadline of the call that finds out whether Temporal answers."""

_PROBE_INTERVAL_SECONDS = 5.0
_INITIAL_BACKOFF_SECONDS = 0.2
_MAX_BACKOFF_SECONDS = 5.0
_MAX_REASON_CHARACTERS = 300


class Connection:
    """A client of Temporal, once there is one. Let `run` run in the background."""

    def __init__(self, settings: Settings, identity: str, on_change: OnConnectionChange) -> None:
        self._settings = settings
        self._identity = identity
        self._on_change = on_change
        self._client: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self.is_connected: bool | None = None
        """Whether Temporal answers; None until the first attempt has ended."""

    async def client(self) -> Client:
        """Waits until Temporal has answered for the first time."""
        return await asyncio.shield(self._client)

    async def run(self) -> None:
        """Connects, retrying for ever, and then finds out every few seconds whether Temporal still answers."""

        def delay_after(error: Exception, attempt: int) -> float | None:
            if not isinstance(error, RPCError | RuntimeError | OSError | ValueError):
                return None
            self._set_connected(False, why=str(error))
            return exponential_backoff(attempt, initial=_INITIAL_BACKOFF_SECONDS, maximum=_MAX_BACKOFF_SECONDS)

        client = await retry(lambda: connect(self._settings, identity=self._identity), delay_after)
        self._client.set_result(client)
        while True:
            try:
                await probe(client)
            except RPCError as error:
                self._set_connected(False, why=error.message)
            else:
                self._set_connected(True)
            await asyncio.sleep(_PROBE_INTERVAL_SECONDS)

    def _set_connected(self, connected: bool, *, why: str = "") -> None:
        if connected is self.is_connected:
            return
        self.is_connected = connected
        self._on_change(connected)
        address = self._settings.temporal_service_address
        if connected:
            logger.info("temporal_reached address=%s", address)
        else:
            text = "temporal_not_reachable address=%s reason=%r consequence=no_activities_are_taken"
            logger.warning(text, address, why[:_MAX_REASON_CHARACTERS])


async def connect(settings: Settings, *, identity: str | None = None) -> Client:
    """Connects to Temporal, by default as this process and host.

    Raises:
        RuntimeError, RPCError: it does not answer.
        OSError: a file cannot be read.
    """
    key = settings.temporal_api_key.get_secret_value() if settings.temporal_api_key else None
    interceptors: list[Interceptor] = [TracingInterceptor(current_tracer())]
    return await Client.connect(
        settings.temporal_service_address,
        namespace=settings.temporal_namespace,
        identity=identity,
        api_key=key,
        connect_timeout=timedelta(seconds=CONNECT_TIMEOUT_SECONDS),
        tls=await asyncio.to_thread(_tls, settings),
        interceptors=interceptors,
        runtime=_runtime(),
    )


async def probe(client: Client) -> None:
    """Calls Temporal once. Raises RPCError."""
    timeout = timedelta(seconds=PROBE_TIMEOUT_SECONDS)
    await client.workflow_service.get_system_info(GetSystemInfoRequest(), timeout=timeout)


def _tls(settings: Settings) -> bool | TLSConfig:
    authority = settings.temporal_tls_server_ca_cert_path
    cert, key = settings.temporal_tls_client_cert_path, settings.temporal_tls_client_key_path
    if authority or cert or settings.temporal_tls_server_name:
        return TLSConfig(
            server_root_ca_cert=authority.read_bytes() if authority else None,
            domain=settings.temporal_tls_server_name,
            client_cert=cert.read_bytes() if cert else None,
            client_private_key=key.read_bytes() if key else None,
        )
    return settings.temporal_tls or settings.temporal_api_key is not None


@cache
def _runtime() -> Runtime:
    """One per process. By default the SDK's core writes its log to the console by itself."""
    # Of an activity that fails it would log a traceback, for which our own line stands.
    logging.getLogger("temporalio.activity").setLevel(logging.ERROR)
    forwarding = LogForwardingConfig(logging.getLogger(f"{__name__}.core"))
    logs = LoggingConfig(TelemetryFilter(core_level="ERROR", other_level="ERROR"), forwarding=forwarding)
    return Runtime(telemetry=TelemetryConfig(logging=logs))
