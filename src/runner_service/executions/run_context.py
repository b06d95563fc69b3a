"""What all runs of this process share: storage, executor, agent loop, policies, and locks of sandboxes."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from runner_service.agent.interface import AgentLoopLoading
from runner_service.changes.workspaces import Workspaces
from runner_service.errors import PreconditionError
from runner_service.executions.confinement_mapping import operator_minimum
from runner_service.executions.execution import Execution
from runner_service.executions.redactors import Redactors
from runner_service.executions.sandbox_locks import SandboxLocks
from runner_service.executions.tenant_limits import TenantLimits
from runner_service.executions.tenant_usage import TenantUsage
from runner_service.executors.egress.mcp_addresses import McpAddresses, parse_networks
from runner_service.executors.protocol import Executor, SandboxSpec
from runner_service.settings import Settings
from runner_service.storage.changes import ContentStore
from runner_service.storage.event_log import EventLog
from runner_service.v1 import approval_policy_pb2 as policy_pb2

if TYPE_CHECKING:
    from runner_service.models.prices import Prices

_BeforeFilesAreUsed = Callable[[Execution], Awaitable[None]]


class RunContext:
    """One per process."""

    def __init__(
        self,
        settings: Settings,
        log: EventLog,
        *,
        mode: str,
        executor: Executor,
        agent_loop: AgentLoopLoading,
        contents: ContentStore,
        tenant_usage: TenantUsage,
        approval_policy: policy_pb2.ApprovalPolicy | None,
        prices: "Prices | None",
    ) -> None:
        self.settings = settings
        self.log = log
        self.mode = mode
        self.executor = executor
        self.agent_loop = agent_loop
        self.contents = contents
        self.tenant_usage = tenant_usage
        self.approval_policy = approval_policy
        """The operator's, of APPROVAL_POLICY_FILE."""
        self.prices = prices
        self.workspaces = Workspaces()
        self.sandbox_locks = SandboxLocks()
        self.redactors = Redactors(settings)
        self.minimum_confinement = operator_minimum(settings)
        self.mcp_addresses = McpAddresses(
            allows_private=settings.is_local_mode(), networks=parse_networks(settings.mcp_allowed_networks)
        )
        self.settle_own_revert: _BeforeFilesAreUsed | None = None
        """Called before an execution goes on that an earlier process has begun."""
        self.wait_for_reverts: _BeforeFilesAreUsed | None = None
        """Called when an execution of a session has begun, and has not used the files yet."""

    def limits_of(self, tenant: str) -> TenantLimits:
        """Returns the limits of a tenant."""
        return self.tenant_usage.tenants.limits_of(tenant)

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
