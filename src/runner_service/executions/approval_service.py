"""Approvals as callers see them: decides about tool calls, and resumes the executions that waited for the decision."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Sequence

from runner_service import states
from runner_service.agent.resume import read_resumption
from runner_service.approvals.requests import Approvals, Asked
from runner_service.errors import CallError, PreconditionError, UnavailableError
from runner_service.executions.audit import Audit
from runner_service.executions.execution import Execution
from runner_service.executions.lifecycle import Lifecycle
from runner_service.executions.ownership import ExecutionOwnership
from runner_service.executions.registry import Registry
from runner_service.executions.resumer import Resumer
from runner_service.executions.run_context import RunContext
from runner_service.executions.session_grants import store_session_grant
from runner_service.identity import NO_KEY, OwnerKey, bare_id, tenant_of
from runner_service.redaction import Redactor
from runner_service.storage.event_log import LogError
from runner_service.storage.execution_filter import ExecutionFilter
from runner_service.storage.ownership import Replicas
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import approval_policy_pb2 as policy_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

logger = logging.getLogger(__name__)

_EXPIRY_INTERVAL_SECONDS = 60.0
_ASKING_STATES = (states.RUNNING, states.WAITING, states.INTERRUPTED)
_MAX_WAITING = 10_000
_MAX_WATCHED = 500
_KEEPALIVE_SECONDS = 15.0
_COALESCE_SECONDS = 0.1
_DECISION_POLLS, _DECISION_POLL_SECONDS = 40, 0.25


class ApprovalService:
    """Belongs to the event loop."""

    def __init__(
        self,
        context: RunContext,
        registry: Registry,
        lifecycle: Lifecycle,
        resumer: Resumer,
        ownership: ExecutionOwnership,
        audit: Audit,
        *,
        replicas: Replicas | None,
    ) -> None:
        self._log = context.log
        self._context = context
        self._registry = registry
        self._lifecycle = lifecycle
        self._resumer = resumer
        self._ownership = ownership
        self._audit = audit
        self._replicas = replicas
        lifecycle.on_parked = self._resume_if_decided_meanwhile

    async def submit(self, request: runner_pb2.SubmitApprovalRequest) -> "event_pb2.State.ValueType":
        """Records a decision, resumes an execution that is WAITING or INTERRUPTED, and returns the execution's state.

        Raises:
            CallError: NOT_FOUND, ABORTED, FAILED_PRECONDITION or INVALID_ARGUMENT, as SubmitApproval's contract says.
        """
        execution = await self._registry.find(OwnerKey(request.execution_id))
        with self._registry.holding(execution):
            is_decided = (
                execution.is_remote and execution.is_active and await self._decide_elsewhere(execution, request)
            )
            if not is_decided:
                await self.apply(request)
            action = event_pb2.ApprovalAction.Name(request.action).removeprefix("APPROVAL_ACTION_")
            text = f"{action} {request.tool_call_id}"
            self._audit.record("APPROVAL", key=execution.id, session=execution.session, text=text)
            return execution.state

    async def apply(self, request: runner_pb2.SubmitApprovalRequest) -> None:
        """Records a decision about an execution that no other replica runs, and resumes it. Raises as `submit` does."""
        execution = await self._registry.find(OwnerKey(request.execution_id))
        with self._registry.holding(execution):
            if not execution.is_active and not execution.is_final:
                await self._ownership.require(execution)
            await self._registry.load_approvals(execution)
            redactor = await self._redactor(execution)
            if execution.is_final and execution.approvals.decision(request.tool_call_id) is None:
                raise PreconditionError(f"execution {execution.name} has ended: {states.state_name(execution.state)}")
            execution.approvals.submit(request, redactor.value)
            if request.grant == policy_pb2.APPROVAL_GRANT_SESSION and execution.session:
                store_session_grant(execution)
            await self._act_on_decision(execution)

    async def _decide_elsewhere(self, execution: Execution, request: runner_pb2.SubmitApprovalRequest) -> bool:
        """Passes a decision on to the replica that runs the execution, and waits until it is in the log.

        Returns False once the execution does not run any more. Raises as `submit` does.
        """
        redactor = await self._redactor(execution)
        for poll in range(_DECISION_POLLS):
            known = Approvals(lambda *_, **__: None, lambda _: None)
            known.restore((await read_resumption(self._log, execution.id)).approval_events)
            is_decided = known.decision(request.tool_call_id) is not None
            known.submit(request, redactor.value)  # refuses what the owner would refuse
            if is_decided:
                return True
            if not (await self._registry.find(execution.id)).is_active:
                return False
            if poll == 0 and self._replicas:
                await self._replicas.decide(execution.id, request.SerializeToString())
            await asyncio.sleep(_DECISION_POLL_SECONDS)
        raise UnavailableError(f"the replica that runs execution {execution.name} does not answer; call again")

    async def pending(
        self, *, limit: int, before_key: int, tenant: str, execution_id: OwnerKey, session_id: OwnerKey
    ) -> tuple[list[runner_pb2.PendingApproval], int]:
        """Returns what waits for a decision in the next `limit` executions, and the key of the next page. LogError.

        `tenant` is whose, or ANY_TENANT.
        """
        if execution_id:
            return await self._pending_of(await self._registry.find(execution_id)), 0
        page = await self._log.list_executions(
            ExecutionFilter(_ASKING_STATES, tenant=tenant, session_id=session_id), limit=limit, before_key=before_key
        )
        found: list[runner_pb2.PendingApproval] = []
        for record in page.executions:
            current = self._registry.get_in_memory(record.execution_id)
            if (current.record if current else record).pending_approvals:
                found += await self._pending_of(current or await self._registry.find(OwnerKey(record.execution_id)))
        return found, page.next_key

    async def changes(
        self, tenant: str, session_id: OwnerKey
    ) -> AsyncGenerator[list[runner_pb2.PendingApproval] | None, None]:
        """Yields what waits for a decision, now and after each change; None after a while without one. Raises LogError.

        Changes that come within `_COALESCE_SECONDS` of each other are one.
        """
        while True:
            waiting = asyncio.ensure_future(self._registry.approval_changes.wait(_KEEPALIVE_SECONDS))
            try:
                if self._registry.is_stopping:
                    raise UnavailableError("the service is stopping; call again")
                pending, _ = await self.pending(
                    limit=_MAX_WATCHED, before_key=0, tenant=tenant, execution_id=NO_KEY, session_id=session_id
                )
                yield pending
                while not await waiting:
                    yield None
                    waiting = asyncio.ensure_future(self._registry.approval_changes.wait(_KEEPALIVE_SECONDS))
            finally:
                waiting.cancel()
            await asyncio.sleep(_COALESCE_SECONDS)

    async def reserve_waiting(self) -> None:
        """Keeps the places of executions that an earlier process has parked. Raises LogError."""
        for execution in await self._waiting():
            self._lifecycle.reserve(execution)
            self._registry.drop_if_idle(execution)

    async def expire_forever(self) -> None:
        """Decides what nobody has decided in time, and resumes what waits although it is decided.

        The latter happens when the service is killed, or refuses, between a decision and the resumption. Now and once
        a minute.
        """
        while True:
            try:
                await self._resume_decided()
            except (LogError, CallError) as error:
                logger.warning("approval_expiry_failed error=%s", error)
            await asyncio.sleep(_EXPIRY_INTERVAL_SECONDS)

    async def _resume_decided(self) -> None:
        for execution in await self._waiting():
            with self._registry.holding(execution):
                resumption = await read_resumption(self._log, execution.id)
                await self._registry.load_approvals(execution)
                due = [each for each in execution.approvals.pending if _is_due(each)]
                if due:
                    await self._ownership.require(execution)
                for asked in due:
                    execution.approvals.expire(asked.request.tool_call_id)
                decided = execution.approvals.decided_call_ids
                if execution.is_waiting and not decided <= resumption.started_calls:
                    await self._act_on_decision(execution)

    async def _resume_if_decided_meanwhile(self, execution: Execution) -> None:
        """Resumes an execution that was decided between its call's leaving the process and its being WAITING."""
        if not execution.approvals.take_undelivered():
            return
        try:
            with self._registry.holding(execution):
                await self._act_on_decision(execution)
        except (LogError, CallError) as error:  # `expire_forever` tries again
            logger.warning("resume_postponed execution=%s reason=%s", execution.id, error)

    async def _act_on_decision(self, execution: Execution) -> None:
        """Waits until the decision is in the log, and resumes the execution unless it runs."""
        if not execution.callers:
            execution.policy = runner_pb2.DISCONNECT_POLICY_DETACH
        await execution.stream.flush()
        if execution.stream.broken:
            raise UnavailableError(execution.stream.broken.message)
        if execution.is_waiting:
            await self._resumer.resume_waiting(execution)
        elif execution.can_be_resumed and execution.request:
            try:
                await self._resumer.resume(execution.id)
            except CallError as error:  # the decision counts all the same
                logger.warning("resume_refused execution=%s reason=%s", execution.id, error)

    async def _pending_of(self, execution: Execution) -> list[runner_pb2.PendingApproval]:
        with self._registry.holding(execution):
            await self._registry.load_approvals(execution)
            return [_describe(execution, each) for each in execution.approvals.pending if not execution.is_final]

    async def _waiting(self) -> Sequence[Execution]:
        page = await self._log.list_executions(ExecutionFilter([states.WAITING]), limit=_MAX_WAITING, before_key=0)
        found = [await self._registry.lookup(OwnerKey(record.execution_id)) for record in page.executions]
        return [each for each in found if each and each.is_waiting]

    async def _redactor(self, execution: Execution) -> Redactor:
        if run := self._lifecycle.parking.run_of(execution.id):
            return run.redactor
        known = execution.request or runner_pb2.ExecuteAgentRequest()
        return execution.redactor if execution.is_active else await self._context.redactors.for_request(known)


def _is_due(asked: Asked) -> bool:
    return asked.request.expire_time.ToNanoseconds() / 1e9 <= time.time()


def _describe(execution: Execution, asked: Asked) -> runner_pb2.PendingApproval:
    return runner_pb2.PendingApproval(
        execution_id=execution.name,
        session_id=bare_id(execution.session),
        tenant=tenant_of(execution.id),
        agent_name=execution.record.agent_name,
        sub_agent_id=asked.sub_agent_id,
        create_time=asked.create_time,
        request=asked.request,
    )
