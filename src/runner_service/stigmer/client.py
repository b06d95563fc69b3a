"""gRPC client of the Stigmer daemon: reads, status updates, connection state."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import grpc
from google.protobuf.message import DecodeError, Message

from runner_service.retries import exponential_backoff, retry
from runner_service.settings import Settings
from runner_service.stigmer.failures import detail_of, reason_of, refusal_of, undecodable, version_mismatch
from runner_service.stigmer.methods import GET_EXECUTION, UPDATE_STATUS, M, Method
from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2

logger = logging.getLogger(__name__)

OnConnectionChange = Callable[[bool], None]
Metadata = tuple[tuple[str, str], ...]

CALL_TIMEOUT_SECONDS = 5.0
"""Deadline of one call to the daemon."""

_MAX_ATTEMPTS = 3
_INITIAL_BACKOFF_SECONDS = 0.2
_MAX_REPORT_ATTEMPTS = 5
_INLINE_DECODE_BYTES = 256 * 1024
_STATUS_TAG = b"\x12"  # field 2, length-delimited
_VARINT_CONTINUES = 0x80
_TLS_PORT = ":443"
_TRANSIENT = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
_PERMANENT = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.NOT_FOUND,
}
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

    async def read(self, method: Method[M], request: Message, what: str) -> M:
        """Calls a read method, retrying while the daemon is unreachable. `what` names the resource in error texts.

        Raises:
            NotFoundError, PermissionDeniedError, PreconditionError: the daemon says so.
            UnavailableError: no answer in three attempts.
        """

        def delay_after(error: Exception, attempt: int) -> float | None:
            if (
                not isinstance(error, grpc.aio.AioRpcError)
                or error.code() not in _TRANSIENT
                or attempt == _MAX_ATTEMPTS
            ):
                return None
            logger.info("daemon_call_retried what=%s code=%s attempt=%d", what, error.code().name, attempt)
            return exponential_backoff(attempt, initial=_INITIAL_BACKOFF_SECONDS, maximum=CALL_TIMEOUT_SECONDS)

        data = request.SerializeToString()
        try:
            answer = await retry(lambda: self._call(method.path, data, CALL_TIMEOUT_SECONDS), delay_after)
        except grpc.aio.AioRpcError as error:
            raise refusal_of(error, self.endpoint, what) from error
        try:
            if len(answer) <= _INLINE_DECODE_BYTES:
                return method.response.FromString(answer)
            return await asyncio.to_thread(method.response.FromString, answer)
        except DecodeError as error:
            raise undecodable(self.endpoint, what) from error

    async def update_status(self, execution_id: str, status: bytes) -> bool:
        """Sends an encoded `AgentExecutionStatus` once. Returns whether it arrived.

        The daemon answers NOT_FOUND to any error of its store, so that is tried again a few times.

        Raises:
            ReportRefusedError: retrying is pointless.
        """
        report = _report(execution_id, status)

        def delay_after(error: Exception, attempt: int) -> float | None:
            is_not_found = isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.NOT_FOUND
            if not is_not_found or attempt == _MAX_REPORT_ATTEMPTS:
                return None
            return exponential_backoff(attempt, initial=_INITIAL_BACKOFF_SECONDS, maximum=CALL_TIMEOUT_SECONDS)

        try:
            await retry(lambda: self._call(UPDATE_STATUS.path, report, 2 * CALL_TIMEOUT_SECONDS), delay_after)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.UNIMPLEMENTED:
                raise ReportRefusedError(version_mismatch(self.endpoint)) from error
            if error.code() in _PERMANENT:
                raise ReportRefusedError(f"{error.code().name}: {detail_of(error)}") from error
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
            await self._call(GET_EXECUTION.path, b"", CALL_TIMEOUT_SECONDS)
        except grpc.aio.AioRpcError as error:
            return reason_of(error)
        return ""

    async def _call(self, path: str, request: bytes, timeout_seconds: float) -> bytes:
        call: Callable[..., Awaitable[bytes]] = self._channel.unary_unary(path)
        return await call(request, metadata=self._metadata, timeout=timeout_seconds)

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
