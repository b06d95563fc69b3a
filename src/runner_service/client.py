"""A Python client. It follows executions through disconnects and restarts.

async with RunnerClient("localhost:50051") as client:
    async for event in client.execute(request):
        ...
"""

import asyncio
import random
import re
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # has no types
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_status import rpc_status

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import agent_runner_pb2_grpc as runner_grpc
from runner_service.v1 import execution_event_pb2 as event_pb2

OnDisconnect = Callable[[grpc.aio.AioRpcError], Awaitable[None]]

_MIN_BACKOFF_SECONDS, _MAX_BACKOFF_SECONDS = 0.1, 2.0  # between two attempts to attach again
_SILENCE_TIMEOUT_SECONDS = 45.0  # seconds; the service sends a keepalive every 15
_DISCONNECT_CODES = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED})
_PROXY_CODES = frozenset({grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN})
_BEFORE_STARTED = {"notice", "approval_decided"}
"""What a new owner can publish before its `started`: after such an event nobody knows whose it was."""
_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 2000),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
)

EXECUTION_ID_KEY = "x-execution-id"
"""The metadata by which a proxy sends all calls about an execution to the same replica."""
_HEADER_VALUE = re.compile(r"[A-Za-z0-9._-]{1,128}")

_RENEWABLE_REASONS = frozenset({"CREDENTIAL_EXPIRED", "CREDENTIAL_REVOKED"})

Token = str | Callable[[], str | None]
"""A bearer token, or what returns the one to send now."""


class ClientCertificate(NamedTuple):
    """A client's private key and certificate chain, PEM."""

    key: bytes
    chain: bytes


Call = grpc.aio.UnaryStreamCall[Any, Any]


class RunnerClient:
    """Calls the service at `address` (`host:port` or `unix:PATH`) while its context is open.

    `token` is sent as bearer token; a function is asked anew for each call, so that a stream whose token has expired is
    resumed with a new one (`token_from_file` makes such a function). `ca` is the CA certificate (PEM) of the service;
    empty: those of gRPC; None: no TLS. `certificate` is the client's own, with its key. `tenant` is the one to act for,
    if it is not the caller's own.

    A stream that breaks is resumed, for at most `retry_timeout` seconds of outage. While the service's queue is full,
    an execution is retried as the service says, for at most `queue_timeout` seconds. `on_disconnect` is awaited before
    each retry, with the error. Every method raises `grpc.aio.AioRpcError` with a code that the proto names.
    """

    def __init__(
        self,
        address: str,
        *,
        token: Token | None = None,
        ca: bytes | None = None,
        certificate: ClientCertificate | None = None,
        tenant: str = "",
        retry_timeout: float = 60.0,
        queue_timeout: float = 0.0,
        on_disconnect: OnDisconnect | None = None,
    ) -> None:
        self.address = address
        self._token = token
        self._tenant = tenant
        self._ca = ca
        self._certificate = certificate
        self._retry_timeout = retry_timeout
        self._queue_timeout = queue_timeout
        self._on_disconnect = on_disconnect

    async def __aenter__(self) -> Self:
        self._connect()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._channel.close()

    async def move_to(self, address: str) -> None:
        """Calls another address from now on, for `on_disconnect`; calls to the old address are cancelled."""
        before, self.address = self._channel, address
        self._connect()
        await before.close()

    async def is_ready(self) -> bool:
        """Tells whether the service takes new executions now. UNAVAILABLE: it cannot be reached."""
        health: Any = health_pb2_grpc.HealthStub(self._channel)
        answer = await health.Check(health_pb2.HealthCheckRequest())
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def execute(self, request: runner_pb2.ExecuteAgentRequest) -> AsyncGenerator[event_pb2.ExecutionEvent, None]:
        """Starts the execution, or attaches to it, and yields its events, each once, until its end.

        Without an `execution_id` one is generated, so that a broken stream can be resumed.
        """
        asked = runner_pb2.ExecuteAgentRequest()
        asked.CopyFrom(request)
        asked.execution_id = asked.execution_id or uuid.uuid4().hex

        def open_stream(after: int, owner: int) -> Call:
            asked.after_sequence, asked.after_owner = after, owner
            return self._stub.ExecuteAgent(asked, metadata=self._metadata(asked.execution_id))

        async with aclosing(self._follow(open_stream, asked.after_sequence, asked.after_owner)) as events:
            async for event in events:
                yield event

    async def watch(
        self, execution_id: str, after_sequence: int = 0, after_owner: int = 0
    ) -> AsyncGenerator[event_pb2.ExecutionEvent, None]:
        """Yields the events above `after_sequence` without being the execution's caller, until its end."""

        def open_stream(after: int, owner: int) -> Call:
            request = runner_pb2.WatchExecutionRequest(
                execution_id=execution_id, after_sequence=after, after_owner=owner
            )
            return self._stub.WatchExecution(request, metadata=self._metadata(execution_id))

        async with aclosing(self._follow(open_stream, after_sequence, after_owner)) as events:
            async for event in events:
                yield event

    async def detach(self, execution_id: str, after_sequence: int = 0) -> None:
        """Detaches an execution from its callers. Returns at once if `after_sequence` is below its newest event."""
        request = runner_pb2.ExecuteAgentRequest(
            execution_id=execution_id,
            after_sequence=after_sequence,
            disconnect_policy=runner_pb2.DISCONNECT_POLICY_DETACH,
        )
        call = self._stub.ExecuteAgent(request, metadata=self._metadata(execution_id))
        try:
            await call.read()
        finally:
            call.cancel()

    async def get(self, execution_id: str) -> runner_pb2.Execution:
        """Returns an execution with its state."""
        request = runner_pb2.GetExecutionRequest(execution_id=execution_id)
        return (await self._stub.GetExecution(request, metadata=self._metadata(execution_id))).execution

    async def list(
        self,
        *,
        states: Iterable["event_pb2.State.ValueType"] = (),
        session_id: str = "",
        labels: Mapping[str, str] | None = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
    ) -> AsyncGenerator[runner_pb2.Execution, None]:
        """Yields the executions that match all filters given, newest first. Times have a time zone."""
        request = runner_pb2.ListExecutionsRequest(states=states, session_id=session_id, labels=labels)
        if created_after is not None:
            request.created_after.FromDatetime(created_after)
        if created_before is not None:
            request.created_before.FromDatetime(created_before)
        while True:
            page = await self._stub.ListExecutions(request, metadata=self._metadata())
            for execution in page.executions:
                yield execution
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def cancel(self, execution_id: str, reason: str = "") -> "event_pb2.State.ValueType":
        """Cancels an execution. Returns its state before."""
        request = runner_pb2.CancelExecutionRequest(execution_id=execution_id, reason=reason)
        return (await self._stub.CancelExecution(request, metadata=self._metadata(execution_id))).state

    async def who_am_i(self) -> runner_pb2.WhoAmIResponse:
        """Returns who the caller is for the service, and what it may do."""
        return await self._stub.WhoAmI(runner_pb2.WhoAmIRequest(), metadata=self._metadata())

    async def submit_approval(self, request: runner_pb2.SubmitApprovalRequest) -> "event_pb2.State.ValueType":
        """Decides about a tool call that waits. Returns the state of the execution. Safe to repeat."""
        return (await self._stub.SubmitApproval(request, metadata=self._metadata(request.execution_id))).state

    async def list_approvals(
        self, *, execution_id: str = "", session_id: str = ""
    ) -> AsyncGenerator[runner_pb2.PendingApproval, None]:
        """Yields the requests for approval that wait for a decision, those of the newest executions first."""
        request = runner_pb2.ListApprovalsRequest(execution_id=execution_id, session_id=session_id)
        while True:
            page = await self._stub.ListApprovals(request, metadata=self._metadata(execution_id))
            for approval in page.approvals:
                yield approval
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def list_file_changes(
        self, execution_id: str, after_sequence: int = 0, to_sequence: int = 0
    ) -> AsyncGenerator[event_pb2.FileChange, None]:
        """Yields what an execution changed in files between two events, by path."""
        request = runner_pb2.ListFileChangesRequest(
            execution_id=execution_id, after_sequence=after_sequence, to_sequence=to_sequence
        )
        while True:
            page = await self._stub.ListFileChanges(request, metadata=self._metadata(execution_id))
            for change in page.changes:
                yield change
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def get_diff(self, request: runner_pb2.GetDiffRequest) -> runner_pb2.GetDiffResponse:
        """Returns what an execution changed in files, as a diff."""
        return await self._stub.GetDiff(request, metadata=self._metadata(request.execution_id))

    async def revert_changes(self, request: runner_pb2.RevertChangesRequest) -> runner_pb2.RevertChangesResponse:
        """Puts files back as they were."""
        return await self._stub.RevertChanges(request, metadata=self._metadata(request.execution_id))

    async def watch_approvals(
        self, *, session_id: str = ""
    ) -> AsyncGenerator[Sequence[runner_pb2.PendingApproval], None]:
        """Yields what waits for a decision, now and after each change, until the service stops or the stream breaks."""
        request = runner_pb2.WatchApprovalsRequest(session_id=session_id)
        async for response in self._stub.WatchApprovals(request, metadata=self._metadata()):
            if not response.keepalive:
                yield response.approvals

    async def delete(self, execution_id: str) -> None:
        """Deletes an execution that has ended."""
        request = runner_pb2.DeleteExecutionRequest(execution_id=execution_id)
        await self._stub.DeleteExecution(request, metadata=self._metadata(execution_id))

    async def delete_session(self, session_id: str) -> int:
        """Deletes a session with all its executions, and returns how many those were."""
        request = runner_pb2.DeleteSessionRequest(session_id=session_id)
        return (await self._stub.DeleteSession(request, metadata=self._metadata())).deleted_executions

    async def read_output(
        self,
        execution_id: str,
        tool_call_id: str,
        stream: "runner_pb2.OutputStream.ValueType" = runner_pb2.OUTPUT_STREAM_STDOUT,
        *,
        offset: int = 0,
        max_bytes: int = 0,
    ) -> runner_pb2.ReadToolOutputResponse:
        """Reads the output of a command, from byte `offset`, at most `max_bytes` (0: 64 KiB)."""
        request = runner_pb2.ReadToolOutputRequest(
            execution_id=execution_id, tool_call_id=tool_call_id, stream=stream, offset=offset, max_bytes=max_bytes
        )
        return await self._stub.ReadToolOutput(request, metadata=self._metadata(execution_id))

    def _metadata(self, execution_id: str = "") -> tuple[tuple[str, str], ...]:
        """Returns what is sent with a call. A proxy may send all calls about an execution to the same replica."""
        token = self._token() if callable(self._token) else self._token
        values = {
            "authorization": f"Bearer {token}" if token else "",
            "x-runner-tenant": self._tenant,
            EXECUTION_ID_KEY: execution_id if _HEADER_VALUE.fullmatch(execution_id) else "",
        }
        return tuple((name, value) for name, value in values.items() if value)

    def _connect(self) -> None:
        if self._ca is None:
            self._channel = grpc.aio.insecure_channel(self.address, options=_OPTIONS)
        else:
            key, chain = self._certificate or (None, None)
            credentials = grpc.ssl_channel_credentials(self._ca or None, key, chain)
            self._channel = grpc.aio.secure_channel(self.address, credentials, options=_OPTIONS)
        self._stub = runner_grpc.AgentRunnerServiceStub(self._channel)

    async def _follow(
        self, open_stream: Callable[[int, int], Call], after: int, owner: int
    ) -> AsyncGenerator[event_pb2.ExecutionEvent, None]:
        """Yields the events above `after`; reopens the stream after the last one seen whenever it breaks."""
        finished, kind = False, None
        backoff = self._new_backoff()
        while not finished:
            call = open_stream(after, 0 if kind in _BEFORE_STARTED else owner)
            try:
                while (response := await _next_response(call)) is not None:
                    backoff = self._new_backoff()
                    for event in response.events:
                        after, finished = event.sequence, event.HasField("finished")
                        owner, kind = event.started.owner or owner, event.WhichOneof("event")
                        yield event
                break
            except grpc.aio.AioRpcError as error:
                pause = backoff.after(error)
                if self._on_disconnect is not None and not finished:
                    await self._on_disconnect(error)
            finally:
                call.cancel()
            await asyncio.sleep(pause)

    def _new_backoff(self) -> "_Backoff":
        return _Backoff(self._retry_timeout, self._queue_timeout, can_renew=callable(self._token))


class _Backoff:
    """The delay before each retry, in seconds, from the first failure on."""

    def __init__(self, retry_timeout: float, queue_timeout: float, *, can_renew: bool = False) -> None:
        self._retry_timeout = retry_timeout
        self._can_renew = can_renew
        self._queue_timeout = queue_timeout
        self._failing_since: float | None = None
        self._next = _MIN_BACKOFF_SECONDS

    def after(self, error: grpc.aio.AioRpcError) -> float:
        """Returns the delay after `error`. Raises `error` if it is not retryable, or the timeout is reached."""
        requested = retry_delay(error)
        is_full = error.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and requested is not None
        if not (is_full or is_disconnect(error) or (self._can_renew and is_expired(error))):
            raise error
        now = time.monotonic()
        self._failing_since = self._failing_since or now
        if now - self._failing_since >= (self._queue_timeout if is_full else self._retry_timeout):
            raise error
        if is_full and requested is not None:
            return requested * random.uniform(1.0, 1.5)  # noqa: S311  # only spreads callers out
        pause, self._next = self._next, min(2 * self._next, _MAX_BACKOFF_SECONDS)
        return pause * random.uniform(0.5, 1.0)  # noqa: S311  # the same


def retry_delay(error: grpc.aio.AioRpcError) -> float | None:
    """Returns the retry delay that the service asks for, in seconds; None if it does not."""
    retry = error_details_pb2.RetryInfo()
    return float(retry.retry_delay.ToNanoseconds() / 1e9) if _unpack_detail(error, retry) else None


def is_disconnect(error: grpc.aio.AioRpcError) -> bool:
    """Whether the stream broke, rather than the service refused the call.

    Behind a proxy a service that was killed is INTERNAL (Envoy, nginx) or UNKNOWN (HAProxy). What the service itself
    means by these codes carries its ErrorInfo.
    """
    if error.code() in _PROXY_CODES:
        return not _unpack_detail(error, error_details_pb2.ErrorInfo())
    return error.code() in _DISCONNECT_CODES


def is_expired(error: grpc.aio.AioRpcError) -> bool:
    """Whether the caller's credential has expired or was replaced, so that the call may succeed with a new one."""
    info = error_details_pb2.ErrorInfo()
    return _unpack_detail(error, info) and info.reason in _RENEWABLE_REASONS


def token_from_file(path: Path | str) -> Callable[[], str]:
    """Returns a function that reads a token from a file, which may be replaced at any time. It raises OSError."""
    return lambda: Path(path).read_text().strip()


def _unpack_detail(error: grpc.aio.AioRpcError, detail: Message) -> bool:
    """Fills `detail` from the details of the status; False when there is none of its type."""
    try:
        status = rpc_status.from_call(error)  # type: ignore[arg-type]  # it reads what both kinds of calls have
    except (ValueError, DecodeError):  # from something in between that changed the status
        return False
    return any(each.Unpack(detail) for each in (status.details if status else ()))


async def _next_response(call: Call) -> Any:
    """Returns the next response, None at the end. A stream without any response for too long counts as broken."""
    try:
        async with asyncio.timeout(_SILENCE_TIMEOUT_SECONDS):
            response = await call.read()
    except TimeoutError:
        raise grpc.aio.AioRpcError(
            grpc.StatusCode.UNAVAILABLE,
            grpc.aio.Metadata(),
            grpc.aio.Metadata(),
            details=f"no response for {_SILENCE_TIMEOUT_SECONDS:g} s",
        ) from None
    return None if response is grpc.aio.EOF else response
