"""The rpcs of `AgentRunnerService`: validates requests and streams frames. Raises only `CallError`."""

from contextlib import aclosing

import grpc

from runner_service import states
from runner_service.api.changes import ChangeRpcs
from runner_service.api.handlers import Context, Handler, stream_handler, unary_handler
from runner_service.api.operators import OperatorRpcs
from runner_service.api.page_tokens import PageTokens
from runner_service.api.unread_pages import UnreadPages, connection_of
from runner_service.api.validation import requests
from runner_service.api.validation.approvals import (
    check_list_approvals,
    check_submit_approval,
    check_watch_approvals,
    filters_of,
)
from runner_service.errors import NotFoundError, WriteStalledError
from runner_service.events.stream import EventStream
from runner_service.executions.approval_service import ApprovalService
from runner_service.executions.change_service import ChangeService
from runner_service.executions.registry import not_in_log
from runner_service.executions.service import ExecutionService
from runner_service.executors.protocol import Stream
from runner_service.identity import NO_KEY, OPERATOR, OwnerKey, current_caller, ids_to_keys, keys_to_ids, owner_key
from runner_service.idle_timeout import idle_timeout
from runner_service.storage.event_log import EventLog
from runner_service.v1 import agent_runner_pb2 as runner_pb2

SERVICE_NAME: str = runner_pb2.DESCRIPTOR.services_by_name["AgentRunnerService"].full_name

_KEEPALIVE_INTERVAL_SECONDS = 15.0
_WRITE_TIMEOUT_SECONDS = 30.0
_STREAMS: dict[int, Stream] = {runner_pb2.OUTPUT_STREAM_STDOUT: "stdout", runner_pb2.OUTPUT_STREAM_STDERR: "stderr"}


class AgentRunnerServicer:
    """The rpcs of `AgentRunnerService`, as its proto promises them."""

    def __init__(
        self,
        executions: ExecutionService,
        approvals: ApprovalService,
        changes: ChangeService,
        log: EventLog,
        *,
        operators: OperatorRpcs | None = None,
        write_timeout: float = _WRITE_TIMEOUT_SECONDS,
    ) -> None:
        self._executions = executions
        self._unread = UnreadPages()
        self._approvals = approvals
        self._pages = PageTokens(log)
        self._change_rpcs = ChangeRpcs(changes, self._pages)
        self._operator_rpcs = operators
        self._log = log
        self._write_timeout = write_timeout

    def handler(self) -> grpc.GenericRpcHandler:
        """Returns the handler for the server. Streams are written as bytes: events are serialised once, for the log."""
        return grpc.method_handlers_generic_handler(SERVICE_NAME, self.handlers())

    def handlers(self) -> dict[str, Handler]:
        """Returns the handlers by the names of the rpcs."""
        return {
            "ExecuteAgent": stream_handler(self.execute_agent, runner_pb2.ExecuteAgentRequest),
            "WatchExecution": stream_handler(self.watch_execution, runner_pb2.WatchExecutionRequest),
            "GetExecution": unary_handler(self.get_execution, runner_pb2.GetExecutionRequest),
            "ListExecutions": unary_handler(self._pages.sealed(self.list_executions), runner_pb2.ListExecutionsRequest),
            "CancelExecution": unary_handler(self.cancel_execution, runner_pb2.CancelExecutionRequest),
            "DeleteExecution": unary_handler(self.delete_execution, runner_pb2.DeleteExecutionRequest),
            "DeleteSession": unary_handler(self.delete_session, runner_pb2.DeleteSessionRequest),
            "SubmitApproval": unary_handler(self.submit_approval, runner_pb2.SubmitApprovalRequest),
            "WatchApprovals": grpc.unary_stream_rpc_method_handler(
                self.watch_approvals,
                request_deserializer=runner_pb2.WatchApprovalsRequest.FromString,
                response_serializer=runner_pb2.WatchApprovalsResponse.SerializeToString,
            ),
            "ListApprovals": unary_handler(self._pages.sealed(self.list_approvals), runner_pb2.ListApprovalsRequest),
            "ReadToolOutput": unary_handler(self.read_tool_output, runner_pb2.ReadToolOutputRequest),
            **self._change_rpcs.handlers(),
            **(self._operator_rpcs.handlers() if self._operator_rpcs else {}),
        }

    async def execute_agent(self, request: runner_pb2.ExecuteAgentRequest, context: Context) -> None:
        """Starts or attaches to an execution, then streams its events."""
        requests.check_execute(request)
        ids_to_keys(request, current_caller.get().tenant)
        async with self._executions.started_or_attached(request) as stream:
            await self._deliver(stream, request.after_sequence, context)

    async def watch_execution(self, request: runner_pb2.WatchExecutionRequest, context: Context) -> None:
        """Streams the events of an execution, without becoming its caller."""
        requests.check_watch(request)
        key = _own(request.execution_id)
        async with self._executions.watched(key, request.after_sequence, request.after_owner) as stream:
            await self._deliver(stream, request.after_sequence, context)

    async def get_execution(
        self, request: runner_pb2.GetExecutionRequest, _: Context
    ) -> runner_pb2.GetExecutionResponse:
        """Returns the current state of an execution."""
        requests.check_get(request)
        return runner_pb2.GetExecutionResponse(execution=keys_to_ids(await self._stored(_own(request.execution_id))))

    async def list_executions(
        self, request: runner_pb2.ListExecutionsRequest, _: Context
    ) -> runner_pb2.ListExecutionsResponse:
        """Returns a page of executions."""
        key = requests.check_list(request, current_caller.get())
        page = await self._log.list_executions(
            requests.execution_filter(request, current_caller.get().tenant),
            limit=request.page_size or requests.DEFAULT_PAGE_SIZE,
            before_key=key,
            order=requests.execution_order(request),
        )
        token = requests.page_token(request, page.next_key)
        return runner_pb2.ListExecutionsResponse(executions=map(keys_to_ids, page.executions), next_page_token=token)

    async def cancel_execution(
        self, request: runner_pb2.CancelExecutionRequest, _: Context
    ) -> runner_pb2.CancelExecutionResponse:
        """Cancels an execution."""
        requests.check_cancel(request)
        return runner_pb2.CancelExecutionResponse(
            state=await self._executions.cancel(_own(request.execution_id), request.reason)
        )

    async def submit_approval(
        self, request: runner_pb2.SubmitApprovalRequest, _: Context
    ) -> runner_pb2.SubmitApprovalResponse:
        """Decides about a tool call."""
        check_submit_approval(request)
        request.execution_id = _own(request.execution_id)
        caller = current_caller.get()
        if caller.name != OPERATOR.name:  # a name that the service knows comes before one that a caller claims
            request.decided_by = f"{caller.name}: {request.decided_by}" if request.decided_by else caller.name
        return runner_pb2.SubmitApprovalResponse(state=await self._approvals.submit(request))

    async def list_approvals(
        self, request: runner_pb2.ListApprovalsRequest, _: Context
    ) -> runner_pb2.ListApprovalsResponse:
        """Lists a page of what waits for a decision."""
        key = check_list_approvals(request)
        pending, next_key = await self._approvals.pending(
            limit=request.page_size or requests.DEFAULT_PAGE_SIZE,
            before_key=key,
            tenant=current_caller.get().tenant,
            execution_id=_own(request.execution_id),
            session_id=_own(request.session_id),
        )
        return runner_pb2.ListApprovalsResponse(
            approvals=pending, next_page_token=requests.page_token(filters_of(request), next_key)
        )

    async def watch_approvals(self, request: runner_pb2.WatchApprovalsRequest, context: Context) -> None:
        """Streams what waits for a decision."""
        check_watch_approvals(request)
        changes = self._approvals.changes(current_caller.get().tenant, _own(request.session_id))
        try:
            async with idle_timeout() as write_limit, aclosing(changes):
                async for pending in changes:
                    write_limit.arm(self._write_timeout)
                    await context.write(
                        runner_pb2.WatchApprovalsResponse(approvals=pending or (), keepalive=pending is None)
                    )
                    write_limit.disarm()
        except TimeoutError:
            raise WriteStalledError(f"nothing was read for {self._write_timeout:g} s; call again") from None

    async def delete_execution(
        self, request: runner_pb2.DeleteExecutionRequest, _: Context
    ) -> runner_pb2.DeleteExecutionResponse:
        """Deletes an execution."""
        requests.check_delete_execution(request)
        await self._executions.delete_execution(_own(request.execution_id))
        return runner_pb2.DeleteExecutionResponse()

    async def delete_session(
        self, request: runner_pb2.DeleteSessionRequest, _: Context
    ) -> runner_pb2.DeleteSessionResponse:
        """Deletes a session."""
        requests.check_delete_session(request)
        deleted = await self._executions.delete_session(_own(request.session_id))
        return runner_pb2.DeleteSessionResponse(deleted_executions=deleted)

    async def read_tool_output(
        self, request: runner_pb2.ReadToolOutputRequest, _: Context
    ) -> runner_pb2.ReadToolOutputResponse:
        """Returns a byte range of a command's output."""
        requests.check_read(request)
        key = _own(request.execution_id)
        execution = await self._stored(key)
        limit = request.max_bytes or requests.DEFAULT_READ_BYTES
        data = await self._log.read_output(key, request.tool_call_id, _STREAMS[request.stream], request.offset, limit)
        if data is None:
            raise NotFoundError(f"tool call {request.tool_call_id} is not in the log of {request.execution_id}")
        return runner_pb2.ReadToolOutputResponse(
            data=data,
            next_offset=request.offset + len(data),
            complete=states.is_final(execution.state) and len(data) < limit,
        )

    async def _stored(self, key: OwnerKey) -> runner_pb2.Execution:
        stored = await self._log.get(key)
        if stored is None:
            raise not_in_log(key)
        return stored.execution

    async def _deliver(self, stream: EventStream, after: int, context: Context) -> None:
        """Writes pages until the end. While a write waits for the network, the next page accumulates."""
        watcher, connection = object(), connection_of(context.peer())
        try:
            async with idle_timeout() as write_limit:
                with self._unread.lease(connection, write_limit.expire) as lease:
                    while (
                        page := await stream.page(
                            watcher, after, timeout_seconds=_KEEPALIVE_INTERVAL_SECONDS, max_bytes=lease.claim
                        )
                    ) is not None:
                        await lease.begin_write(len(page.frames))
                        write_limit.arm(self._write_timeout)
                        await context.write(page.frames)
                        write_limit.disarm()
                        lease.end_write()
                        after = page.last
        except TimeoutError:
            raise WriteStalledError(
                f"this stream was not read for up to {self._write_timeout:g} s; attach again with after_sequence"
            ) from None
        finally:
            stream.remove_watcher(watcher)


def _own(name: str) -> OwnerKey:
    """Returns the key of one of the caller's own executions or sessions; empty for none."""
    return owner_key(current_caller.get().tenant, name) if name else NO_KEY
