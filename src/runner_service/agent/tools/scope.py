"""Which execution and which tool call is at work.

Compiled agents are shared by executions, so nothing of an execution is in them: whoever is called by one asks here.
"""

from contextvars import ContextVar
from dataclasses import dataclass, field
from pathlib import Path

from runner_service.agent.interface import AgentRun
from runner_service.agent.tools.command_output import CommandOutput
from runner_service.agent.tools.loop_detector import LoopDetector
from runner_service.v1 import execution_event_pb2 as event_pb2


@dataclass
class RunScope:
    """An execution at work. `scratch` is a directory for what the agent loop itself puts aside, made when needed.

    `run_id` is a name that no other execution of the session has had, even of the same id.
    """

    run: AgentRun
    scratch: Path
    run_id: str
    outputs: dict[str, CommandOutput] = field(default_factory=dict)
    """What each command wrote, by tool call id."""
    call_ids: set[str] = field(default_factory=set)
    made_ids: str = "call"
    """How the ids begin that are made here, for calls which have none that can be used."""
    messages: int = 0
    loop_detectors: dict[str, LoopDetector] = field(default_factory=dict)
    """By agent: whether it goes round in circles."""

    def __post_init__(self) -> None:
        if self.run.resumption:
            self.call_ids |= self.run.resumption.started_calls
            # No message of the earlier process can have a higher number than it had events.
            self.messages = self.run.events.last_sequence
            self.made_ids = f"resumed-{self.run.events.last_sequence}"

    def loop_detector(self, agent: str) -> LoopDetector:
        """What one agent of the execution, by its sub-agent id, has called so far."""
        return self.loop_detectors.setdefault(agent, LoopDetector(self.run.max_repeated_calls))


@dataclass
class RunningCall:
    """A tool call at work. `output` is set when it runs a command."""

    id: str
    name: str
    sub_agent_id: str
    output: CommandOutput | None = None
    interrupted: bool = False
    """Its effects are not known: an earlier process was killed while it ran."""
    resumes: bool = False
    """An earlier process has begun it, and it goes on."""
    ended: event_pb2.ToolCallFinished | None = None
    """How it has ended in an earlier process."""


current_scope: ContextVar[RunScope] = ContextVar("scope")
"""The execution that the current task works for."""

current_call: ContextVar[RunningCall | None] = ContextVar("call", default=None)
"""The tool call that the current task works for; a sub-agent works for its `task` call."""


def sub_agent_id() -> str:
    """The `task` call that the current task's agent works for; empty for the main agent."""
    call = current_call.get()
    return call.id if call else ""
