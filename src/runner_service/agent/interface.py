"""The agent loop as the executions package sees it."""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from runner_service.approvals.requests import Approvals
from runner_service.changes.tracker import ChangeTracker
from runner_service.executors.confinement import Confinement
from runner_service.executors.egress.mcp_addresses import McpAddresses
from runner_service.executors.egress.policy import EgressPolicy
from runner_service.executors.protocol import Sandbox
from runner_service.redaction import Redactor
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

if TYPE_CHECKING:
    from runner_service.agent.resume import Resumption
    from runner_service.events.stream import EventStream
    from runner_service.models import ModelChoice
    from runner_service.models.prices import Prices


class ParkedError(Exception):
    """The agent stopped because its tool calls wait for approvals. To go on, run it again with a resumption."""


@dataclass(frozen=True)
class AgentRun:
    """One run of an agent: request, sandbox, event stream and limits.

    Every field of `limits` is set. `usage` is updated in place, and valid however the run ends.
    """

    execution_id: str
    session_id: str
    agent: runner_pb2.Agent
    message: str
    limits: runner_pb2.ExecutionLimits
    model: "ModelChoice"
    sandbox: Sandbox
    events: "EventStream"
    redactor: Redactor
    approvals: Approvals
    """Which tool calls are asked about, and what was decided."""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The request's variables, for MCP servers over HTTP."""
    usage: event_pb2.Usage = field(default_factory=event_pb2.Usage)
    prices: "Prices | None" = None
    """What model calls cost; None: not known."""
    cost: event_pb2.Cost = field(default_factory=event_pb2.Cost)
    """What they have cost; updated in place, and empty without prices."""
    mcp_start_timeout: float = 30.0
    """Seconds for an MCP server to start and to list its tools."""
    max_repeated_calls: int = 0
    """How many calls in a row may repeat an earlier call with its result; 0 is unlimited."""
    approval_hold_seconds: float = 60.0
    """How long a call waits for a decision before it is parked."""
    approval_hold_background_seconds: float = 900.0
    """The same, while a command may have left processes running, which parking ends."""
    resumption: "Resumption | None" = None
    """The progress of an earlier process; None for a new execution."""
    confinement: Confinement = Confinement()  # noqa: RUF009  # frozen
    """What the tools may do; the sandbox enforces it for its own."""
    tracker: ChangeTracker | None = None
    """Finds what its calls change in files; None when that is not tracked."""
    egress: EgressPolicy | None = None
    """Where the service itself may connect to for this run, by its confinement; None: anywhere."""
    mcp_addresses: McpAddresses = field(default_factory=lambda: McpAddresses(allows_private=True))
    """Where HTTP MCP servers may be, in any run."""
    require_tokens: "Callable[[], Awaitable[None]] | None" = None
    """Checks before a model call that the tenant has tokens left. Raises ExecutionEnd, LogError."""
    is_interrupted: Callable[[], bool] = lambda: False
    """Whether a cancellation is an interruption, after which the execution can be resumed."""

    @property
    def model_name(self) -> str:
        """The model's name as spans, metrics and notices show it: a caller may have put a secret into it."""
        return self.redactor.text(self.model.name)


class AgentLoop(Protocol):
    """Runs agents."""

    async def run(self, run: AgentRun) -> str:
        """Runs an agent to its final answer.

        Raises:
            ExecutionEnd: ended without an answer; the class says why.
            ParkedError: it waits for approvals.
        """

    async def kept(self) -> Collection[str]:
        """Returns the ids of the executions of which it keeps something to go on with."""

    async def forget(self, execution_id: str, session_id: str) -> None:
        """Forgets what it kept to go on with an execution that is finished for good. A session's conversation stays."""

    async def kept_sessions(self) -> Collection[str]:
        """Returns the sessions whose conversation it keeps."""

    async def forget_session(self, session_id: str) -> None:
        """Deletes the conversation of a session. Raises LogError, OSError."""


class AgentLoopLoading(Protocol):
    """Loads the agent loop lazily."""

    async def loaded(self) -> AgentLoop:
        """Loads it if necessary, and returns it. Raises ExecutionEnd when loading failed."""

    async def once_loaded(self) -> AgentLoop:
        """Returns it once another caller has loaded it. Raises ExecutionEnd when loading failed."""
