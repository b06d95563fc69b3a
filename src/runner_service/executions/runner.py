"""Runs the agent of an execution: opens its sandbox, publishes `started`, and runs the agent loop to its answer.

`prepare` checks what can be refused before anything has happened; `PreparedRun.run` does the rest.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from runner_service.agent.interface import AgentRun, ParkedError
from runner_service.agent.resume import Resumption, read_resumption
from runner_service.approvals.policy import Approver
from runner_service.changes.contents import Contents
from runner_service.changes.records import decode_all
from runner_service.changes.tracker import ChangeTracker, tracked
from runner_service.errors import SandboxEnd, TimedOutEnd
from runner_service.executions.confinement_mapping import confinement_of
from runner_service.executions.execution import Execution
from runner_service.executions.execution_limits import limits_in_force
from runner_service.executions.revert_notes import forget_notes, with_notes
from runner_service.executions.run_context import RunContext
from runner_service.executions.session_grants import granted_in_session
from runner_service.executions.started import started_event, warn_if_approvals_can_be_evaded
from runner_service.executions.tenant_usage import TokenMeter
from runner_service.executors.completion import run_to_completion
from runner_service.executors.confinement import Confinement
from runner_service.executors.egress.policy import EgressPolicy
from runner_service.executors.protocol import Sandbox, SandboxError, SandboxSpec
from runner_service.identity import tenant_of
from runner_service.models import ModelChoice, resolve
from runner_service.redaction import Redactor
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

_INFO = event_pb2.Notice.LEVEL_INFO


async def prepare(
    context: RunContext, request: runner_pb2.ExecuteAgentRequest, *, resumes: bool = False
) -> "PreparedRun":
    """Checks, before anything has happened, that the model and the confinement of a request can be used.

    Raises:
        CallError: FAILED_PRECONDITION or INVALID_ARGUMENT.
    """
    model = resolve(request.agent.model, context.settings)
    confinement = confinement_of(request, context.minimum_confinement)
    redactor = await context.redactors.for_request(request)
    return PreparedRun(context, request, model, redactor, confinement, resumes)


@dataclass(frozen=True)
class PreparedRun:
    """One run of an execution's agent. `resumes` says that an earlier process may have begun it."""

    context: RunContext
    request: runner_pb2.ExecuteAgentRequest
    model: ModelChoice
    redactor: Redactor
    confinement: Confinement
    resumes: bool = False

    async def run(self, execution: Execution, *, on_started: Callable[[], None]) -> str:
        """Runs the agent and returns its final answer. `on_started` is called once `started` is published.

        Raises:
            ExecutionEnd: there is no answer; the class says why.
        """
        resumption = await read_resumption(self.context.log, execution.id) if self.resumes else None
        if resumption:
            execution.usage.CopyFrom(resumption.usage)
            execution.cost.CopyFrom(resumption.cost)
            execution.elapsed_before_seconds = resumption.elapsed
            execution.approvals.restore(resumption.approval_events)
            execution.stream.quota.restore(await self.context.log.stored_bytes(execution.id))
        execution.approvals.approver = await self._approver(execution)
        return await self._run(execution, resumption, on_started)

    async def _run(self, execution: Execution, resumption: Resumption | None, on_started: Callable[[], None]) -> str:
        context = self.context
        await context.agent_loop.loaded()  # before the clock starts
        tenant = context.limits_of(tenant_of(execution.id))
        limits = limits_in_force(self.request.limits, context.settings, tenant)
        timeout_seconds = limits.timeout.ToNanoseconds() / 1e9
        egress = self._egress(execution)
        execution.stream.quota.set_limit(context.settings.execution_max_bytes)
        try:
            if self.resumes and context.settle_own_revert:
                await context.settle_own_revert(execution)
            async with (
                asyncio.timeout(max(0.0, timeout_seconds - execution.elapsed_before_seconds)) as clock,
                context.sandbox_locks.held(self.request.session_id or execution.id),
                context.redactors.sharing_secrets(execution, self.request, self.confinement),
                context.executor.open(self._sandbox_spec(execution, egress)) as sandbox,
            ):
                await self._announce(execution, sandbox.root)
                on_started()
                return await self._run_in(sandbox, execution, resumption, limits, egress)
        except TimeoutError:
            if clock.expired():
                raise TimedOutEnd(f"limits.timeout = {timeout_seconds:g} s was reached") from None
            raise
        except SandboxError as error:
            text = execution.redactor.text(str(error))
            raise SandboxEnd(text, code=error.code, retryable=error.retryable, fenced_by=error.fenced_by) from error

    async def _run_in(
        self,
        sandbox: Sandbox,
        execution: Execution,
        resumption: Resumption | None,
        limits: runner_pb2.ExecutionLimits,
        egress: EgressPolicy | None,
    ) -> str:
        log = self.context.log
        if execution.session and self.context.wait_for_reverts:
            await self.context.wait_for_reverts(execution)
        tracker = await self._tracker(execution, sandbox)
        resumes = resumption is not None
        message, noted = await with_notes(self.request.message, log, execution, resumes=resumes)
        meter = self.context.tenant_usage.meter(tenant_of(execution.id), execution.usage)
        run = self._agent_run(execution, message, resumption, limits, meter, egress, sandbox, tracker)
        execution.run = run
        try:
            output = await self._run_tracked(execution, run)
        finally:
            if meter:
                await meter.count_rest()
        await forget_notes(log, execution.session, noted)
        return output

    async def _announce(self, execution: Execution, root: str) -> None:
        context, resumed = self.context, self.resumes and execution.has_started
        started = await started_event(context, execution, self.model, self.confinement, root=root, resumed=resumed)
        execution.publish_started(started)
        warn_if_approvals_can_be_evaded(context, execution, self.confinement)

    def _sandbox_spec(self, execution: Execution, egress: EgressPolicy | None) -> SandboxSpec:
        return SandboxSpec(
            execution_id=execution.id,
            session_id=self.request.session_id,
            confinement=self.confinement,
            egress=egress,
            notify=lambda code, text: execution.notify(event_pb2.Notice(level=_INFO, code=code, text=text)),
            is_interrupted=lambda: execution.is_interrupted,
            on_private_bytes=execution.stream.quota.set_private,
            is_parked=lambda: execution.is_parked,
            environment=self._environment(),
            owner_token=execution.stream.owner_token,
        )

    def _agent_run(
        self,
        execution: Execution,
        message: str,
        resumption: Resumption | None,
        limits: runner_pb2.ExecutionLimits,
        meter: TokenMeter | None,
        egress: EgressPolicy | None,
        sandbox: Sandbox,
        tracker: ChangeTracker | None,
    ) -> AgentRun:
        settings = self.context.settings
        return AgentRun(
            execution_id=execution.id,
            session_id=self.request.session_id,
            agent=self.request.agent,
            message=message,
            limits=limits,
            model=self.model,
            sandbox=sandbox,
            events=execution.stream,
            redactor=execution.redactor,
            approvals=execution.approvals,
            approval_hold_seconds=settings.approval_hold,
            approval_hold_background_seconds=settings.approval_hold_background,
            environment=self._environment(),
            usage=execution.usage,
            prices=self.context.prices,
            cost=execution.cost,
            mcp_start_timeout=settings.mcp_start_timeout,
            max_repeated_calls=settings.max_repeated_calls,
            resumption=resumption,
            confinement=self.confinement,
            egress=egress,
            mcp_addresses=self.context.mcp_addresses,
            tracker=tracker,
            require_tokens=meter.require if meter else None,
            is_interrupted=lambda: execution.is_interrupted,
        )

    async def _run_tracked(self, execution: Execution, run: AgentRun) -> str:
        """Runs the agent; what its calls changed is published before the end of the execution."""
        if run.tracker is None:
            return await self._run_agent(execution, run)
        async with tracked(run.tracker, self.context.workspaces) as tracker:
            try:
                return await self._run_agent(execution, run)
            finally:
                if not tracker.is_finished:
                    await run_to_completion(tracker.finish(is_interrupted=execution.is_interrupted))
                execution.files_changed = await tracker.summary()

    async def _run_agent(self, execution: Execution, run: AgentRun) -> str:
        loop = await self.context.agent_loop.loaded()
        try:
            return await loop.run(run)
        except ParkedError:
            execution.is_parked = True  # before its sandbox closes
            raise

    async def _tracker(self, execution: Execution, sandbox: Sandbox) -> ChangeTracker | None:
        tracking = sandbox.tracking if self.context.settings.sandbox_track_changes == "auto" else None
        if tracking is None:
            return None
        earlier = await self.context.log.change_sets(execution.id) if self.resumes else ()
        sets = await asyncio.to_thread(decode_all, earlier) if earlier else []
        contents = Contents(execution.id, self.context.contents, execution.redactor)
        return ChangeTracker(tracking, execution.stream, contents, self.context.workspaces, sets)

    async def _approver(self, execution: Execution) -> Approver:
        granted = execution.approvals.granted_rules
        if self.request.session_id:
            granted += await granted_in_session(self.context.log, self.request.session_id)
        requested = self.request.approval_policy if self.request.HasField("approval_policy") else None
        return Approver(requested, self.context.approval_policy, granted)

    def _egress(self, execution: Execution) -> EgressPolicy | None:
        """Returns the policy for the network level `proxy`; each denied host is published once."""
        if self.confinement.network != "proxy":
            return None

        def publish(host: str, port: int, reason: str) -> None:
            execution.stream.publish(
                event_pb2.NetworkDenied(host=execution.redactor.text(host), port=port, reason=reason)
            )

        return EgressPolicy(self.confinement.allowed_hosts, publish)

    def _environment(self) -> dict[str, str]:
        return {name: entry.value for name, entry in self.request.environment.items()}

    async def delete_state(self, execution: Execution) -> None:
        """Deletes what was kept to resume an execution whose end is in the log."""
        if execution.run:
            await (await self.context.agent_loop.loaded()).forget(execution.id, execution.record.session_id)
