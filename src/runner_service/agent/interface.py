"""What the life of an execution hands to the agent loop, and the little that it expects of it."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from runner_service.executors.protocol import Sandbox
from runner_service.redaction import Redactor
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

if TYPE_CHECKING:
    from runner_service.agent.resume import Resumption
    from runner_service.events.stream import EventStream
    from runner_service.models import ModelChoice


@dataclass(frozen=True)
class AgentRun:
    """One run of an agent: what it is asked, where its tools work, where its events go, what it may take.

    Every field of `limits` is set. `usage` is counted up in place, so that it is right however the run ends.
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
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    """The variables that came with the request, for what is not a command."""
    usage: event_pb2.Usage = field(default_factory=event_pb2.Usage)
    max_repeated_calls: int = 0
    """How many calls in a row an agent may make that bring nothing new; 0 allows any number."""
    resumption: "Resumption | None" = None
    """How far an earlier process came with it; None when it begins."""
    is_interrupted: Callable[[], bool] = lambda: False
    """Says whether a cancellation leaves it to be continued, rather than ending it."""


class AgentLoop(Protocol):
    """Runs agents."""

    async def run(self, run: AgentRun) -> str:
        """Runs until the agent gives its final answer, and returns it.

        Raises:
            ExecutionEnd: it ended without one; the class says why.
        """

    async def kept(self) -> Collection[str]:
        """Returns the ids of the executions of which it keeps something to go on with."""

    async def forget(self, execution_id: str, session_id: str) -> None:
        """Forgets what it kept to go on with an execution that is finished for good. A session's conversation stays."""


class AgentLoopLoading(Protocol):
    """Gives the agent loop, which takes its time to load."""

    async def loaded(self) -> AgentLoop:
        """Has it loaded, and waits. Raises ExecutionEnd when it cannot be."""

    async def once_loaded(self) -> AgentLoop:
        """Waits until it is loaded for somebody else. Raises ExecutionEnd when it cannot be."""
