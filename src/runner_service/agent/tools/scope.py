"""Context variables for the current execution and tool call.

Compiled agents are shared by executions, so they hold no state of one: code called by an agent finds it here.
"""

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, field

from deepagents.backends.protocol import BackendProtocol
from langchain_core.messages import ToolMessage

from runner_service.agent.interface import AgentRun
from runner_service.agent.journal import Journal
from runner_service.agent.tools.command_output import CommandOutput
from runner_service.agent.tools.loop_detector import LoopDetector
from runner_service.approvals.policy import McpTool
from runner_service.v1 import execution_event_pb2 as event_pb2


@dataclass
class RunScope:
    """A running execution. `scratch` opens the files that deepagents offloads from its context.

    `run_id` is unique in the session, even among executions of the same id.
    """

    run: AgentRun
    journal: Journal
    scratch: Callable[[], BackendProtocol]
    run_id: str
    outputs: dict[str, CommandOutput] = field(default_factory=dict)
    """Command outputs by tool call id."""
    call_ids: set[str] = field(default_factory=set)
    id_prefix: str = "call"
    """Prefix of ids minted for tool calls without a usable one."""
    messages: int = 0
    mcp_tools: Mapping[str, McpTool] = field(default_factory=dict)
    """The tools of MCP servers, by the names that the model uses."""
    loop_detectors: dict[str, LoopDetector] = field(default_factory=dict)
    """By sub-agent id; empty for the main agent."""
    step_results: dict[str, ToolMessage] = field(default_factory=dict)
    """What the calls of the main agent's current step ended with, by call id, until a checkpoint has it."""
    repairs: set[str] = field(default_factory=set)
    """What was published of repairs of the conversation."""
    has_background_processes: bool = False
    """True once a command has left processes running; whether they still do is not known."""

    def __post_init__(self) -> None:
        if self.run.resumption:
            self.call_ids |= self.run.resumption.started_calls | self.run.approvals.call_ids
            # No message of the earlier process can have a higher number than it had events.
            self.messages = self.run.events.last_sequence
            self.id_prefix = f"resumed-{self.run.events.last_sequence}"

    def loop_detector(self, agent: str) -> LoopDetector:
        """Returns the loop detector of an agent, by its sub-agent id."""
        return self.loop_detectors.setdefault(agent, LoopDetector(self.run.max_repeated_calls))


@dataclass
class RunningCall:
    """A running tool call. `output` is set when it runs a command."""

    id: str
    name: str
    sub_agent_id: str
    output: CommandOutput | None = None
    sub_agent: str = ""
    """The sub-agent that a `task` call runs."""
    is_known: bool = True
    """There is a tool of that name."""
    rejected: bool = False
    """A policy or a person refused it."""
    interrupted: bool = False
    """Its effects are unknown: an earlier process was killed while it ran."""
    resumes: bool = False
    """Started by an earlier process, and still running."""
    ended: event_pb2.ToolCallFinished | None = None
    """Its end, published by an earlier process."""


current_scope: ContextVar[RunScope] = ContextVar("scope")
"""The current task's execution."""

current_call: ContextVar[RunningCall | None] = ContextVar("call", default=None)
"""The current task's tool call; for a sub-agent its `task` call."""

includes_ignored: ContextVar[bool] = ContextVar("includes_ignored", default=False)
"""Whether the current search includes files that ignore files name."""


def sub_agent_id() -> str:
    """Returns the id of the current agent's `task` call; empty for the main agent."""
    call = current_call.get()
    return call.id if call else ""
