"""Calls of the Stigmer daemon, and whether it is there."""

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
OnLink = Callable[[bool], None]
Metadata = tuple[tuple[str, str], ...]

TIMEOUT = 5.0
"""How many seconds the daemon has for one answer."""

_TRIES = 3
_FIRST_DELAY = 0.2
_COMMANDS = execution_pb2.DESCRIPTOR.services_by_name["AgentExecutionCommandController"]
_UPDATE_STATUS = f"/{_COMMANDS.full_name}/updateStatus"
_STATUS_TAG = b"\x12"  # field 2, with its length
_MORE = 0x80
_TLS_PORT = ":443"
_TRANSIENT = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}
_HOPELESS = {
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.UNIMPLEMENTED,
    grpc.StatusCode.FAILED_PRECONDITION,
}
_UNTRUSTED = "CERTIFICATE_VERIFY_FAILED"  # in what grpc says; there is no code for it
_BEFORE_THE_REASON = "last error: UNKNOWN: "
_RETRY_CALLER_AFTER = 2.0
_LONGEST_DETAIL = 300
_OPTIONS = (
    ("grpc.max_receive_message_length", 64 * 1024 * 1024),  # the files of a skill come in one message
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),  # by default a daemon that comes back is noticed after up to two minutes
)


class ReportRefusedError(Exception):
    """The daemon will never take reports of this execution; the text says why."""


class DaemonClient:
    """The calls that the service makes. Construct it with `daemon_client`."""

    def __init__(self, endpoint: str, metadata: Metadata, channel: grpc.aio.Channel, on_link: OnLink) -> None:
        self.endpoint = endpoint
        self._channel = channel
        self._metadata = metadata
        self._on_link = on_link
        self.is_reachable: bool | None = None
        """Whether it is there; None until the first try has come to an end."""
        self._came = asyncio.Event()
        self.executions = agentexecution_pb2_grpc.AgentExecutionQueryControllerStub(channel)
        self.sessions = session_pb2_grpc.SessionQueryControllerStub(channel)
        self.instances = agentinstance_pb2_grpc.AgentInstanceQueryControllerStub(channel)
        self.agents = agent_pb2_grpc.AgentQueryControllerStub(channel)
        self.skills = skill_pb2_grpc.SkillQueryControllerStub(channel)
        self.environments = environment_pb2_grpc.EnvironmentQueryControllerStub(channel)
        self._update_status: Callable[..., Awaitable[bytes]] = channel.unary_unary(_UPDATE_STATUS)

    async def read(self, method: Callable[..., Awaitable[T]], request: object, what: str) -> T:
        """Calls a reading method, again when the daemon cannot be reached. `what` names what is asked for, for people.

        Raises:
            NotFoundError, PermissionDeniedError, PreconditionError: the daemon says so.
            UnavailableError: it did not answer, in three tries.
        """
        for attempt in range(1, _TRIES + 1):
            try:
                return await method(request, metadata=self._metadata, timeout=TIMEOUT)
            except grpc.aio.AioRpcError as error:
                if error.code() not in _TRANSIENT or attempt == _TRIES:
                    raise self._refusal(error, what) from error
                logger.info("daemon_asked_again what=%s code=%s attempt=%d", what, error.code().name, attempt)
            await asyncio.sleep(_FIRST_DELAY * 2 ** (attempt - 1))
        raise AssertionError("the last try returns or raises")

    async def update_status(self, execution_id: str, status: bytes) -> bool:
        """Sends one report, once: an `AgentExecutionStatus` as on the wire. Tells whether it arrived.

        Raises:
            ReportRefusedError: it is of no use to try again.
        """
        try:
            await self._update_status(_report(execution_id, status), metadata=self._metadata, timeout=2 * TIMEOUT)
        except grpc.aio.AioRpcError as error:
            if error.code() in _HOPELESS:
                raise ReportRefusedError(f"{error.code().name}: {_detail(error)}") from error
            logger.debug("report_failed execution=%s code=%s", execution_id, error.code().name)
            return False
        return True

    async def pause(self, seconds: float) -> None:
        """Waits before another try; less when the daemon comes back meanwhile."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._came.wait()

    async def watch_link(self) -> None:
        """Keeps the connection up, for ever, and says once when it is lost and once when it is there."""
        state = self._channel.get_state(try_to_connect=True)
        while True:
            if state is grpc.ChannelConnectivity.READY:
                self._set_reachable(True)
            elif state is grpc.ChannelConnectivity.TRANSIENT_FAILURE and self.is_reachable is not False:
                self._set_reachable(False, why=await self._why_not())
            await self._channel.wait_for_state_change(state)
            state = self._channel.get_state(try_to_connect=True)

    async def _why_not(self) -> str:
        """Returns why there is no connection: what a call fails with, which is not even sent."""
        try:
            await self.executions.get(execution_pb2.AgentExecutionId(), timeout=TIMEOUT)
        except grpc.aio.AioRpcError as error:
            return reason_of(error)
        return ""

    def _set_reachable(self, reachable: bool, *, why: str = "") -> None:
        if reachable is self.is_reachable:
            return
        self.is_reachable = reachable
        self._on_link(reachable)
        if reachable:
            came, self._came = self._came, asyncio.Event()
            came.set()
            logger.info("daemon_reached endpoint=%s", self.endpoint)
        else:
            text = "daemon_not_reachable endpoint=%s reason=%r consequence=reports_wait_here"
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
                return UnavailableError(text, retry_delay=_RETRY_CALLER_AFTER)
        return PreconditionError(f"the Stigmer daemon failed when asked for {what}: {code.name}: {_detail(error)}")


@asynccontextmanager
async def daemon_client(settings: Settings, on_link: OnLink) -> AsyncIterator[DaemonClient]:
    """Opens the channel to STIGMER_BACKEND_ENDPOINT, which must be set. `on_link` hears whether the daemon is there."""
    endpoint = settings.stigmer_backend_endpoint or ""
    async with daemon_channel(endpoint) as channel:
        client = DaemonClient(endpoint, key_metadata(settings), channel, on_link)
        watching = asyncio.create_task(client.watch_link(), name="daemon-link")
        try:
            yield client
        finally:
            watching.cancel()
            await asyncio.wait([watching])


def key_metadata(settings: Settings) -> Metadata:
    """Returns what every call carries: the key, as a bearer token."""
    key = settings.stigmer_api_key.get_secret_value() if settings.stigmer_api_key else ""
    return (("authorization", f"Bearer {key}"),)


def is_untrusted(error: grpc.aio.AioRpcError) -> bool:
    """Tells whether there was no connection because the daemon's certificate is not trusted."""
    return _UNTRUSTED in (error.details() or "")


def wants_tls(endpoint: str) -> bool:
    """Tells whether an endpoint is to be called by TLS."""
    return endpoint.endswith(_TLS_PORT)


def daemon_channel(endpoint: str) -> grpc.aio.Channel:
    """Makes the channel: TLS by the rule of `wants_tls`, with the authorities that grpc knows or is told of.

    Those are in the file that GRPC_DEFAULT_SSL_ROOTS_FILE_PATH names, else the ones that come with grpc.
    """
    if wants_tls(endpoint):
        return grpc.aio.secure_channel(endpoint, grpc.ssl_channel_credentials(), options=_OPTIONS)
    return grpc.aio.insecure_channel(endpoint, options=_OPTIONS)


def _report(execution_id: str, status: bytes) -> bytes:
    """Encodes an AgentExecutionUpdateStatusInput around a status: encoding all anew would take milliseconds."""
    length, rest = bytearray(_STATUS_TAG), len(status)
    while rest >= _MORE:
        length.append(rest % _MORE | _MORE)
        rest //= _MORE
    length.append(rest)
    head = execution_pb2.AgentExecutionUpdateStatusInput(execution_id=execution_id).SerializeToString()
    return b"".join((head, length, status))


def reason_of(error: grpc.aio.AioRpcError) -> str:
    """Returns what grpc says of a connection that failed, without the words around it."""
    return (error.details() or "").rpartition(_BEFORE_THE_REASON)[2][:_LONGEST_DETAIL]


def _detail(error: grpc.aio.AioRpcError) -> str:
    return (error.details() or "")[:_LONGEST_DETAIL]
