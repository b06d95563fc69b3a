"""Runs the agent of an execution: opens its sandbox, starts its clock, publishes `started`, and runs the agent loop."""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass

from google.protobuf.duration_pb2 import Duration

from runner_service import states
from runner_service.agent.interface import AgentLoop, AgentLoopLoading, AgentRun, ParkedError
from runner_service.agent.resume import Resumption, read_resumption
from runner_service.approvals.policy import Approver
from runner_service.changes.contents import Contents
from runner_service.changes.records import decode_all
from runner_service.changes.tracker import ChangeTracker, tracked
from runner_service.changes.workspaces import Workspaces
from runner_service.errors import PreconditionError, SandboxEnd, TimedOutEnd
from runner_service.executions.confinement_mapping import confinement_info, confinement_of, operator_minimum
from runner_service.executions.execution import Execution
from runner_service.executions.revert_notes import forget_notes, with_notes
from runner_service.executions.sandbox_locks import SandboxLocks
from runner_service.executions.tenant_limits import apply_ceilings
from runner_service.executions.tenant_usage import TenantUsage, TokenMeter
from runner_service.executors.completion import run_to_completion
from runner_service.executors.confinement import Confinement
from runner_service.executors.egress.mcp_addresses import McpAddresses, parse_networks
from runner_service.executors.egress.policy import EgressPolicy
from runner_service.executors.protocol import Executor, Sandbox, SandboxError, SandboxSpec
from runner_service.identity import OwnerKey, tenant_of
from runner_service.models import ModelChoice, resolve
from runner_service.models.prices import Prices
from runner_service.redaction import Redactor
from runner_service.redaction.shared import SharedSecrets
from runner_service.settings import Settings
from runner_service.storage.changes import ContentStore
from runner_service.storage.event_log import EventLog, LogError
from runner_service.storage.execution_filter import ExecutionFilter
from runner_service.telemetry import current_trace_id
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import approval_policy_pb2 as policy_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

logger = logging.getLogger(__name__)

_BeforeFilesAreUsed = Callable[[Execution], Awaitable[None]]


class Runner:
    """What every run stands on: the log, the executor, the agent loop and the defaults. One per process."""

    def __init__(
        self,
        settings: Settings,
        log: EventLog,
        *,
        mode: str,
        executor: Executor,
        agent_loop: AgentLoopLoading,
        contents: ContentStore,
        approval_policy: policy_pb2.ApprovalPolicy | None = None,
        prices: Prices | None = None,
        tenant_usage: TenantUsage | None = None,
    ) -> None:
        self.contents = contents
        self.workspaces = Workspaces()
        self.sandbox_locks = SandboxLocks()
        self.settings = settings
        self.log = log
        self.mode = mode
        self.executor = executor
        self.agent_loop = agent_loop
        self._minimum = operator_minimum(settings)
        self.mcp_addresses = McpAddresses(
            allows_private=settings.is_local_mode(), networks=parse_networks(settings.mcp_allowed_networks)
        )
        self._own_redactor: tuple[Sequence[str], Redactor] = ([], Redactor(()))
        """For the secrets of the service alone, which it was built for."""
        self._shared_secrets: dict[str, SharedSecrets] = defaultdict(SharedSecrets)
        self.approval_policy = approval_policy
        """The operator's, of APPROVAL_POLICY_FILE."""
        self.prices = prices
        self.settle_own_revert: _BeforeFilesAreUsed | None = None
        """Called before an execution goes on that an earlier process has begun."""
        self.wait_for_reverts: _BeforeFilesAreUsed | None = None
        """Called when an execution of a session has begun, and has not used the files yet."""
        self.tenant_usage = tenant_usage
        """What tenants may use; None: as much as the service."""

    async def prepare(self, request: runner_pb2.ExecuteAgentRequest, *, resumes: bool = False) -> "PreparedRun":
        """Checks, before anything has happened, that the model and the confinement of a request can be used.

        Raises:
            CallError: FAILED_PRECONDITION or INVALID_ARGUMENT.
        """
        model = resolve(request.agent.model, self.settings)
        confinement = confinement_of(request, self._minimum)
        return PreparedRun(self, request, model, await self.redactor(request), confinement, resumes)

    def require_same_root(self, execution: Execution) -> None:
        """Refuses to resume an execution where its files are not. Raises PreconditionError."""
        record = execution.record
        if not record.root:
            return
        root = self.executor.root_for(SandboxSpec(execution.id, record.session_id))
        if record.mode != self.mode or root not in {None, record.root}:
            here = f"MODE={self.mode}" if record.mode != self.mode else f"in {root}"
            raise PreconditionError(
                f"execution {execution.name} worked in {record.root} with MODE={record.mode}, and this service works "
                f"{here}: resume it in a service with that MODE and SANDBOX_ROOT_DIR, or on the command line with "
                f"`runner-service run --root {record.root} --id {execution.name}` and the same message"
            )

    async def redactor(self, request: runner_pb2.ExecuteAgentRequest) -> Redactor:
        """Builds a redactor for the secrets of a request and those of the service."""
        own, given = self.settings.secrets(), _secrets(request)
        if not given and own == self._own_redactor[0]:
            return self._own_redactor[1].copy()
        redactor = await Redactor.build([*own, *given])
        if not given:
            self._own_redactor = own, redactor.copy()
        if redactor.omitted_forms:
            logger.warning("redaction_forms_omitted count=%d", redactor.omitted_forms)
        return redactor

    def sharing_secrets(
        self, execution: Execution, request: runner_pb2.ExecuteAgentRequest, confinement: Confinement
    ) -> AbstractAsyncContextManager[None]:
        """Redacts with the secrets of all executions whose environment others can read, and only where they can."""
        if not self.settings.is_local_mode():
            return nullcontext()
        shared = self._shared_secrets[tenant_of(execution.id)]
        return shared.joined(execution.redactor, _secrets(request), can_read=not confinement)

    async def delete_orphaned_state(self, is_active: Callable[[str], bool]) -> None:
        """Deletes what the agent loop still keeps of executions that have ended: cancelled, pruned, or killed then.

        Raises:
            LogError: the log cannot be read.
            ExecutionEnd: the agent loop cannot be loaded.
        """
        loop = await self.agent_loop.once_loaded()
        for execution_id in await loop.kept():
            stored = None if is_active(execution_id) else await self.log.get(execution_id)
            # It may have been resumed meanwhile.
            if not is_active(execution_id) and (stored is None or states.is_final(stored.execution.state)):
                await loop.forget(execution_id, stored.execution.session_id if stored else "")

    async def delete_orphaned_sessions(self, active_sessions: Callable[[], Collection[str]]) -> None:
        """Deletes conversations of sessions that have no execution in the log. Raises as `delete_orphaned_state`."""
        loop = await self.agent_loop.once_loaded()
        for session_id in await loop.kept_sessions():
            page = await self.log.list_executions(ExecutionFilter(session_id=OwnerKey(session_id)), limit=1)
            if not page.executions and session_id not in active_sessions():
                await loop.forget_session(session_id)


@dataclass(frozen=True)
class PreparedRun:
    """One run of an execution's agent. `resumes` says that an earlier process may have begun it."""

    runner: Runner
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
        resumption = await read_resumption(self.runner.log, execution.id) if self.resumes else None
        if resumption:
            execution.usage.CopyFrom(resumption.usage)
            execution.cost.CopyFrom(resumption.cost)
            execution.elapsed_before_seconds = resumption.elapsed
            execution.approvals.restore(resumption.approval_events)
            execution.stream.quota.restore(await self.runner.log.stored_bytes(execution.id))
        execution.approvals.approver = await self._approver(execution)
        return await self._run(execution, resumption, on_started)

    async def delete_state(self, execution: Execution) -> None:
        """Deletes what was kept to resume an execution whose end is in the log."""
        if execution.run:
            await (await self.runner.agent_loop.loaded()).forget(execution.id, execution.record.session_id)

    async def _run(self, execution: Execution, resumption: Resumption | None, on_started: Callable[[], None]) -> str:
        loop = await self.runner.agent_loop.loaded()
        limits, meter = self._limits(execution), self._meter(execution)
        timeout_seconds = limits.timeout.ToNanoseconds() / 1e9
        egress = self._egress(execution)
        execution.stream.quota.set_limit(self.runner.settings.execution_max_bytes)
        try:
            if self.resumes and self.runner.settle_own_revert:
                await self.runner.settle_own_revert(execution)
            async with (
                asyncio.timeout(max(0.0, timeout_seconds - execution.elapsed_before_seconds)) as clock,
                self.runner.sandbox_locks.held(self.request.session_id or execution.id),
                self.runner.sharing_secrets(execution, self.request, self.confinement),
                self.runner.executor.open(self._sandbox_spec(execution, egress)) as sandbox,
            ):
                execution.publish_started(await self._started(execution, sandbox.root))
                self._warn_if_approvals_can_be_evaded(execution)
                on_started()
                if execution.session and self.runner.wait_for_reverts:
                    await self.runner.wait_for_reverts(execution)
                tracker = await self._tracker(execution, sandbox)
                log, resumes = self.runner.log, resumption is not None
                message, noted = await with_notes(self.request.message, log, execution, resumes=resumes)
                run = self._agent_run(execution, message, resumption, limits, meter, egress, sandbox, tracker)
                execution.run = run
                try:
                    output = await self._run_tracked(loop, execution, run)
                finally:
                    await _count_rest(meter)
                await forget_notes(log, execution.session, noted)
                return output
        except TimeoutError:
            if clock.expired():
                raise TimedOutEnd(f"limits.timeout = {timeout_seconds:g} s was reached") from None
            raise
        except SandboxError as error:
            text = execution.redactor.text(str(error))
            raise SandboxEnd(text, code=error.code, retryable=error.retryable, fenced_by=error.fenced_by) from error

    def _limits(self, execution: Execution) -> runner_pb2.ExecutionLimits:
        limits = _limits(self.request.limits, self.runner.settings)
        if usage := self.runner.tenant_usage:
            apply_ceilings(limits, usage.tenants.limits_of(tenant_of(execution.id)))
        return limits

    def _meter(self, execution: Execution) -> TokenMeter | None:
        usage = self.runner.tenant_usage
        return usage.meter(tenant_of(execution.id), execution.usage) if usage else None

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
        settings = self.runner.settings
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
            prices=self.runner.prices,
            cost=execution.cost,
            mcp_start_timeout=settings.mcp_start_timeout,
            max_repeated_calls=settings.max_repeated_calls,
            resumption=resumption,
            confinement=self.confinement,
            egress=egress,
            mcp_addresses=self.runner.mcp_addresses,
            tracker=tracker,
            require_tokens=meter.require if meter else None,
            is_interrupted=lambda: execution.is_interrupted,
        )

    async def _run_agent(self, loop: AgentLoop, execution: Execution, run: AgentRun) -> str:
        try:
            return await loop.run(run)
        except ParkedError:
            execution.is_parked = True  # before its sandbox closes
            raise

    async def _tracker(self, execution: Execution, sandbox: Sandbox) -> ChangeTracker | None:
        tracking = sandbox.tracking if self.runner.settings.sandbox_track_changes == "auto" else None
        if tracking is None:
            return None
        earlier = await self.runner.log.change_sets(execution.id) if self.resumes else ()
        sets = await asyncio.to_thread(decode_all, earlier) if earlier else []
        contents = Contents(execution.id, self.runner.contents, execution.redactor)
        return ChangeTracker(tracking, execution.stream, contents, self.runner.workspaces, sets)

    async def _run_tracked(self, loop: AgentLoop, execution: Execution, run: AgentRun) -> str:
        """Runs the agent; what its calls changed is published before the end of the execution."""
        if run.tracker is None:
            return await self._run_agent(loop, execution, run)
        async with tracked(run.tracker, self.runner.workspaces) as tracker:
            try:
                return await self._run_agent(loop, execution, run)
            finally:
                await run_to_completion(tracker.finish(is_interrupted=execution.is_interrupted))
                execution.files_changed = await tracker.summary()

    def _warn_if_approvals_can_be_evaded(self, execution: Execution) -> None:
        """A command on this machine that reaches the service without a token can decide about its own approval."""
        settings, asks = self.runner.settings, execution.approvals.approver.can_ask
        if asks and settings.is_local_mode() and not settings.authenticates() and self.confinement.network == "all":
            text = (
                "commands of this execution can reach the service, and so approve their own calls: give the service a "
                "token (AUTH_TOKEN_FILE), or confine its network (confinement.network)"
            )
            _publish_notice(execution, "APPROVALS_CAN_BE_EVADED", text, level=event_pb2.Notice.LEVEL_WARNING)

    async def _approver(self, execution: Execution) -> Approver:
        granted = execution.approvals.granted_rules
        if self.request.session_id:
            values = await self.runner.log.find_values(grants_name(self.request.session_id))
            for value in values.values():
                granted += policy_pb2.ApprovalPolicy.FromString(value).rules
        requested = self.request.approval_policy if self.request.HasField("approval_policy") else None
        return Approver(requested, self.runner.approval_policy, granted)

    async def _started(self, execution: Execution, root: str) -> event_pb2.Started:
        executor, model = self.runner.executor, self.model
        return event_pb2.Started(
            mode=self.runner.mode,
            sandbox=event_pb2.SandboxInfo(
                type=executor.sandbox_type,
                root=root,
                process_control=executor.process_control,
                confinement=await self._confinement_info(),
            ),
            model=event_pb2.ModelInfo(provider=model.provider, name=execution.redactor.text(model.name)),
            resumed=self.resumes and execution.has_started,
            owner=execution.stream.owner_token,
            caller=execution.record.caller if execution.record.HasField("caller") else None,
            trace_id=current_trace_id(),
        )

    async def _confinement_info(self) -> event_pb2.ConfinementInfo | None:
        in_force = await self.runner.executor.confinement_for(self.confinement)
        return confinement_info(in_force) if in_force else None

    def _egress(self, execution: Execution) -> EgressPolicy | None:
        """Returns the policy for the network level `proxy`; each denied host is published once."""
        if self.confinement.network != "proxy":
            return None

        def publish(host: str, port: int, reason: str) -> None:
            execution.stream.publish(
                event_pb2.NetworkDenied(host=execution.redactor.text(host), port=port, reason=reason)
            )

        return EgressPolicy(self.confinement.allowed_hosts, publish)

    def _sandbox_spec(self, execution: Execution, egress: EgressPolicy | None) -> SandboxSpec:
        return SandboxSpec(
            execution_id=execution.id,
            session_id=self.request.session_id,
            confinement=self.confinement,
            egress=egress,
            notify=lambda code, text: _publish_notice(execution, code, text),
            is_interrupted=lambda: execution.is_interrupted,
            on_private_bytes=execution.stream.quota.set_private,
            is_parked=lambda: execution.is_parked,
            environment=self._environment(),
            owner_token=execution.stream.owner_token,
        )

    def _environment(self) -> dict[str, str]:
        return {name: entry.value for name, entry in self.request.environment.items()}


def _secrets(request: runner_pb2.ExecuteAgentRequest) -> list[str]:
    return [entry.value for entry in request.environment.values() if entry.is_secret]


def grants_name(session_id: str) -> str:
    """Returns the name of the stored value that holds the rules granted for a session."""
    return f"approval-grants:{session_id}"


async def _count_rest(meter: TokenMeter | None) -> None:
    try:
        if meter:
            await meter.count()
    except LogError as error:
        logger.warning("tokens_not_counted reason=%s", error)


def _limits(requested: runner_pb2.ExecutionLimits, settings: Settings) -> runner_pb2.ExecutionLimits:
    limits = runner_pb2.ExecutionLimits(
        max_model_calls=requested.max_model_calls or settings.default_max_model_calls,
        max_tool_calls=requested.max_tool_calls or settings.default_max_tool_calls,
        max_total_tokens=requested.max_total_tokens or settings.default_max_total_tokens,
        max_output_bytes=requested.max_output_bytes or settings.default_max_output_bytes,
    )
    limits.timeout.CopyFrom(requested.timeout if requested.HasField("timeout") else _duration(settings.default_timeout))
    limits.command_timeout.CopyFrom(
        requested.command_timeout
        if requested.HasField("command_timeout")
        else _duration(settings.default_command_timeout)
    )
    return limits


def _publish_notice(
    execution: Execution,
    code: str,
    text: str,
    *,
    level: "event_pb2.Notice.Level.ValueType" = event_pb2.Notice.LEVEL_INFO,
) -> None:
    execution.stream.publish(event_pb2.Notice(level=level, code=code, text=text))


def _duration(seconds: float) -> Duration:
    duration = Duration()
    duration.FromNanoseconds(int(seconds * 1e9))
    return duration
