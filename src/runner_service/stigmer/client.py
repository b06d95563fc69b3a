"""gRPC client of the Stigmer daemon: reads, status updates, connection state."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import grpc

from runner_service.errors import (
    CallError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionError,
    UnavailableError,
)
from runner_service.settings import Settings
from runner_service.stigmer.wire import (
    agent_pb2_grpc,
    agentexecution_pb2_grpc,
    agentinstance_pb2_grpc,
    environment_pb2_grpc,
    session_pb2_grpc,
    skill_pb2_grpc,
)
from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2

logger = logging.getLogger(__name__)

T = TypeVar("T")
OnConnectionChange = Callable[[bool], None]
Metadata = tuple[tuple[str, str], ...]

CALL_TIMEOUT_SECONDS = 5.0
"""Deadline of one call to the daemon."""

_MAX_ATTEMPTS = 3
_INITIAL_BACKOFF_SECONDS = 0.2
_COMMAND_SERVICE = execution_pb2.DESCRIPTOR.services_by_name["AgentExecutionCommandController"]
_UPDATE_STATUS = f"/{_COMMAND_SERVICE.full_name}/updateStatus"
_STATUS_TAG = b"\x12"  # field 2, length-delimited
_VARINT_CONTINUES = 0x80
_TLS_PORT = ":443"
_TRANSIENT = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
_PERMANENT = {
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.FAILED_PRECONDITION,
}
_CERTIFICATE_ERROR = "CERTIFICATE_VERIFY_FAILED"  # from the status details: grpc has no code for it
_REASON_PREFIX = "last error: UNKNOWN: "
_RETRY_DELAY_SECONDS = 2.0
_MAX_DETAIL_CHARACTERS = 300
_OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),  # a skill archive is a single message
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),  # the default backoff reaches two minutes
)


class ReportRefusedError(Exception):
    """The daemon permanently refuses reports of this execution; the text says why."""


class DaemonClient:
    """Calls the daemon over one channel. Construct it with `daemon_client`."""

    def __init__(
        self, endpoint: str, metadata: Metadata, channel: grpc.aio.Channel, on_connection_change: OnConnectionChange
    ) -> None:
        self.endpoint = endpoint
        self._channel = channel
        self._metadata = metadata
        self._on_connection_change = on_connection_change
        self.is_connected: bool | None = None
        """Whether the channel is connected; None until the first attempt has ended."""
        self._reconnected = asyncio.Event()
        self.executions = agentexecution_pb2_grpc.AgentExecutionQueryControllerStub(channel)
        self.sessions = session_pb2_grpc.SessionQueryControllerStub(channel)
        self.instances = agentinstance_pb2_grpc.AgentInstanceQueryControllerStub(channel)
        self.agents = agent_pb2_grpc.AgentQueryControllerStub(channel)
        self.skills = skill_pb2_grpc.SkillQueryControllerStub(channel)
        self.environments = environment_pb2_grpc.EnvironmentQueryControllerStub(channel)
        self._update_status: Callable[..., Awaitable[bytes]] = channel.unary_unary(_UPDATE_STATUS)

    async def read(self, method: Callable[..., Awaitable[T]], request: object, what: str) -> T:
        """Calls a read method, retrying while the daemon is unreachable. `what` names the resource in error texts.

        Raises:
            NotFoundError, PermissionDeniedError, PreconditionError: the daemon says so.
            UnavailableError: no answer in three attempts.
        """
        for attempt in range(1, _MAX_ATTEMPTS + 1):
            try:
                return await method(request, metadata=self._metadata, timeout=CALL_TIMEOUT_SECONDS)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _TRANSIENT or attempt == _MAX_ATTEMPTS:
                    raise self._refusal(error, what) from error
                logger.info("daemon_call_retried what=%s code=%s attempt=%d", what, error.code().name, attempt)
            await asyncio.sleep(_INITIAL_BACKOFF_SECONDS * 2 ** (attempt - 1))
        raise AssertionError("the last attempt returns or raises")

    async def update_status(self, execution_id: str, status: bytes) -> bool:
        """Sends an encoded `AgentExecutionStatus` once. Returns whether it arrived.

        Raises:
            ReportRefusedError: retrying is pointless.
        """
        try:
            await self._update_status(
                _report(execution_id, status), metadata=self._metadata, timeout=2 * CALL_TIMEOUT_SECONDS
            )
        except grpc.aio.AioRpcError as error:
            if error.code() in _PERMANENT:
                raise ReportRefusedError(f"{error.code().name}: {_detail(error)}") from error
            logger.debug("report_failed execution=%s code=%s", execution_id, error.code().name)
            return False
        return True

    async def wait_before_retry(self, seconds: float) -> None:
        """Sleeps before a retry, or until the daemon reconnects if that is sooner."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._reconnected.wait()

    async def watch_connection(self) -> None:
        """Keeps the channel connected for ever and logs each change of its state once."""
        state = self._channel.get_state(try_to_connect=True)
        while True:
            if state is grpc.ChannelConnectivity.READY:
                self._set_connected(True)
            elif state is grpc.ChannelConnectivity.TRANSIENT_FAILURE and self.is_connected is not False:
                self._set_connected(False, why=await self._connection_error())
            await self._channel.wait_for_state_change(state)
            state = self._channel.get_state(try_to_connect=True)

    async def _connection_error(self) -> str:
        """Returns why the channel does not connect, from the failure of a call on it."""
        try:
            await self.executions.get(execution_pb2.AgentExecutionId(), timeout=CALL_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            return reason_of(error)
        return ""

    def _set_connected(self, connected: bool, *, why: str = "") -> None:
        if connected is self.is_connected:
            return
        self.is_connected = connected
        self._on_connection_change(connected)
        if connected:
            waiting, self._reconnected = self._reconnected, asyncio.Event()
            waiting.set()
            logger.info("daemon_reached endpoint=%s", self.endpoint)
        else:
            text = "daemon_not_reachable endpoint=%s reason=%r consequence=reports_are_kept"
            logger.warning(text, self.endpoint, why)

    def _refusal(self, error: grpc.aio.AioRpcError, what: str) -> CallError:
        code = error.code()
        match code:
            case grpc.StatusCode.NOT_FOUND:
                return NotFoundError(f"the Stigmer daemon does not know {what}")
            case grpc.StatusCode.PERMISSION_DENIED:
                return PermissionDeniedError(f"the Stigmer daemon does not show {what}: {_detail(error)}")
            case grpc.StatusCode.UNAUTHENTICATED:
                return PreconditionError(f"the Stigmer daemon at {self.endpoint} does not accept STIGMER_API_KEY")
            case grpc.StatusCode.UNAVAILABLE | grpc.StatusCode.DEADLINE_EXCEEDED:
                text = f"the Stigmer daemon at {self.endpoint} did not answer when asked for {what} ({code.name})"
                if is_untrusted(error):
                    text = f"the Stigmer daemon at {self.endpoint} shows no certificate that this service trusts"
                return UnavailableError(text, retry_delay=_RETRY_DELAY_SECONDS)
        return PreconditionError(f"the Stigmer daemon failed when asked for {what}: {code.name}: {_detail(error)}")


@asynccontextmanager
async def daemon_client(settings: Settings, on_connection_change: OnConnectionChange) -> AsyncIterator[DaemonClient]:
    """Opens the channel to STIGMER_BACKEND_ENDPOINT, which must be set.

    `on_connection_change` is called with True or False whenever the connection state changes.
    """
    endpoint = settings.stigmer_backend_endpoint or ""
    async with daemon_channel(endpoint) as channel:
        client = DaemonClient(endpoint, key_metadata(settings), channel, on_connection_change)
        watching = asyncio.create_task(client.watch_connection(), name="daemon-connection")
        try:
            yield client
        finally:
            watching.cancel()
            await asyncio.wait([watching])


def key_metadata(settings: Settings) -> Metadata:
    """Returns the metadata of every call: the API key as a bearer token."""
    key = settings.stigmer_api_key.get_secret_value() if settings.stigmer_api_key else ""
    return (("authorization", f"Bearer {key}"),)


def is_untrusted(error: grpc.aio.AioRpcError) -> bool:
    """Returns whether the connection failed because the daemon's certificate is not trusted."""
    return _CERTIFICATE_ERROR in (error.details() or "")


def wants_tls(endpoint: str) -> bool:
    """Returns whether an endpoint is called over TLS."""
    return endpoint.endswith(_TLS_PORT)


def daemon_channel(endpoint: str) -> grpc.aio.Channel:
    """Creates the channel, over TLS if `wants_tls` says so.

    Trusted authorities: the file named by GRPC_DEFAULT_SSL_ROOTS_FILE_PATH, else those bundled with grpc.
    """
    if wants_tls(endpoint):
        return grpc.aio.secure_channel(endpoint, grpc.ssl_channel_credentials(), options=_OPTIONS)
    return grpc.aio.insecure_channel(endpoint, options=_OPTIONS)


def _report(execution_id: str, status: bytes) -> bytes:
    """Encodes an AgentExecutionUpdateStatusInput around an encoded status, which saves milliseconds."""
    length, rest = bytearray(_STATUS_TAG), len(status)
    while rest >= _VARINT_CONTINUES:
        length.append(rest % _VARINT_CONTINUES | _VARINT_CONTINUES)
        rest //= _VARINT_CONTINUES
    length.append(rest)
    head = execution_pb2.AgentExecutionUpdateStatusInput(execution_id=execution_id).SerializeToString()
    return b"".join((head, length, status))


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Returns the cause of a failed connection from the status details."""
    return (error.details() or "").rpartition(_REASON_PREFIX)[2][:_MAX_DETAIL_CHARACTERS]


def _detail(error: grpc.aio.AioRpcError) -> str:
    return (error.details() or "")[:_MAX_DETAIL_CHARACTERS]
