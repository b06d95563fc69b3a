"""What an execution publishes when its agent begins: `started`, and a warning if its approvals can be evaded."""

from runner_service.executions.confinement_mapping import confinement_info
from runner_service.executions.execution import Execution
from runner_service.executions.run_context import RunContext
from runner_service.executors.confinement import Confinement
from runner_service.models import ModelChoice
from runner_service.telemetry import current_trace_id
from runner_service.v1 import execution_event_pb2 as event_pb2


async def started_event(
    context: RunContext, execution: Execution, model: ModelChoice, confinement: Confinement, *, root: str, resumed: bool
) -> event_pb2.Started:
    """Returns `started` for an agent that works in `root`. Raises SandboxError."""
    executor = context.executor
    in_force = await executor.confinement_for(confinement)
    return event_pb2.Started(
        mode=context.mode,
        sandbox=event_pb2.SandboxInfo(
            type=executor.sandbox_type,
            root=root,
            process_control=executor.process_control,
            confinement=confinement_info(in_force) if in_force else None,
        ),
        model=event_pb2.ModelInfo(provider=model.provider, name=execution.redactor.text(model.name)),
        resumed=resumed,
        owner=execution.stream.owner_token,
        caller=execution.record.caller if execution.record.HasField("caller") else None,
        trace_id=current_trace_id(),
    )


def warn_if_approvals_can_be_evaded(context: RunContext, execution: Execution, confinement: Confinement) -> None:
    """A command on this machine that reaches the service without a token can decide about its own approval."""
    settings, asks = context.settings, execution.approvals.approver.can_ask
    if asks and settings.is_local_mode() and not settings.authenticates() and confinement.network == "all":
        text = (
            "commands of this execution can reach the service, and so approve their own calls: give the service a "
            "token (AUTH_TOKEN_FILE), or confine its network (confinement.network)"
        )
        level = event_pb2.Notice.LEVEL_WARNING
        execution.notify(event_pb2.Notice(level=level, code="APPROVALS_CAN_BE_EVADED", text=text))
