"""`RunnerClient`: the rpcs of the service as methods."""

import uuid
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from contextlib import aclosing
from datetime import datetime
from types import TracebackType
from typing import Any, Self

from grpc_health.v1 import health_pb2, health_pb2_grpc

from runner_service.client.connection import ClientCertificate, Connection, Token
from runner_service.client.following import Call, OnDisconnect, OpenStream, RetryLimits, follow
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2


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
        self._connection = Connection(address, token, tenant, ca, certificate)
        self._limits = RetryLimits(retry_timeout, queue_timeout, self._connection.can_renew)
        self._on_disconnect = on_disconnect

    async def __aenter__(self) -> Self:
        self._connection.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._connection.close()

    @property
    def address(self) -> str:
        """Where it calls."""
        return self._connection.address

    async def move_to(self, address: str) -> None:
        """Calls another address from now on, for `on_disconnect`; calls to the old address are cancelled."""
        await self._connection.move_to(address)

    async def is_ready(self) -> bool:
        """Tells whether the service takes new executions now. UNAVAILABLE: it cannot be reached."""
        health: Any = health_pb2_grpc.HealthStub(self._connection.channel)
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
            return self._connection.stub.ExecuteAgent(asked, metadata=self._connection.metadata(asked.execution_id))

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
            return self._connection.stub.WatchExecution(request, metadata=self._connection.metadata(execution_id))

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
        call = self._connection.stub.ExecuteAgent(request, metadata=self._connection.metadata(execution_id))
        try:
            await call.read()
        finally:
            call.cancel()

    async def get(self, execution_id: str) -> runner_pb2.Execution:
        """Returns an execution with its state."""
        request = runner_pb2.GetExecutionRequest(execution_id=execution_id)
        return (
            await self._connection.stub.GetExecution(request, metadata=self._connection.metadata(execution_id))
        ).execution

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
            page = await self._connection.stub.ListExecutions(request, metadata=self._connection.metadata())
            for execution in page.executions:
                yield execution
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def cancel(self, execution_id: str, reason: str = "") -> "event_pb2.State.ValueType":
        """Cancels an execution. Returns its state before."""
        request = runner_pb2.CancelExecutionRequest(execution_id=execution_id, reason=reason)
        return (
            await self._connection.stub.CancelExecution(request, metadata=self._connection.metadata(execution_id))
        ).state

    async def who_am_i(self) -> runner_pb2.WhoAmIResponse:
        """Returns who the caller is for the service, and what it may do."""
        return await self._connection.stub.WhoAmI(runner_pb2.WhoAmIRequest(), metadata=self._connection.metadata())

    async def submit_approval(self, request: runner_pb2.SubmitApprovalRequest) -> "event_pb2.State.ValueType":
        """Decides about a tool call that waits. Returns the state of the execution. Safe to repeat."""
        return (
            await self._connection.stub.SubmitApproval(
                request, metadata=self._connection.metadata(request.execution_id)
            )
        ).state

    async def list_approvals(
        self, *, execution_id: str = "", session_id: str = ""
    ) -> AsyncGenerator[runner_pb2.PendingApproval, None]:
        """Yields the requests for approval that wait for a decision, those of the newest executions first."""
        request = runner_pb2.ListApprovalsRequest(execution_id=execution_id, session_id=session_id)
        while True:
            page = await self._connection.stub.ListApprovals(request, metadata=self._connection.metadata(execution_id))
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
            page = await self._connection.stub.ListFileChanges(
                request, metadata=self._connection.metadata(execution_id)
            )
            for change in page.changes:
                yield change
            if not page.next_page_token:
                return
            request.page_token = page.next_page_token

    async def get_diff(self, request: runner_pb2.GetDiffRequest) -> runner_pb2.GetDiffResponse:
        """Returns what an execution changed in files, as a diff."""
        return await self._connection.stub.GetDiff(request, metadata=self._connection.metadata(request.execution_id))

    async def revert_changes(self, request: runner_pb2.RevertChangesRequest) -> runner_pb2.RevertChangesResponse:
        """Puts files back as they were."""
        return await self._connection.stub.RevertChanges(
            request, metadata=self._connection.metadata(request.execution_id)
        )

    async def watch_approvals(
        self, *, session_id: str = ""
    ) -> AsyncGenerator[Sequence[runner_pb2.PendingApproval], None]:
        """Yields what waits for a decision, now and after each change, until the service stops or the stream breaks."""
        request = runner_pb2.WatchApprovalsRequest(session_id=session_id)
        async for response in self._connection.stub.WatchApprovals(request, metadata=self._connection.metadata()):
            if not response.keepalive:
                yield response.approvals

    async def delete(self, execution_id: str) -> None:
        """Deletes an execution that has ended."""
        request = runner_pb2.DeleteExecutionRequest(execution_id=execution_id)
        await self._connection.stub.DeleteExecution(request, metadata=self._connection.metadata(execution_id))

    async def delete_session(self, session_id: str) -> int:
        """Deletes a session with all its executions, and returns how many those were."""
        request = runner_pb2.DeleteSessionRequest(session_id=session_id)
        return (
            await self._connection.stub.DeleteSession(request, metadata=self._connection.metadata())
        ).deleted_executions

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
        return await self._connection.stub.ReadToolOutput(request, metadata=self._connection.metadata(execution_id))

    def _follow(
        self, open_stream: OpenStream, after: int, owner: int
    ) -> AsyncGenerator[event_pb2.ExecutionEvent, None]:
        return follow(open_stream, after, owner, limits=self._limits, on_disconnect=self._on_disconnect)
