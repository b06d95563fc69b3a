"""Cache of compiled agent graphs: compiling takes 15 ms."""

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

from deepagents import create_deep_agent
from deepagents.middleware.subagents import GENERAL_PURPOSE_SUBAGENT, SubAgent
from langchain.agents.middleware import AgentMiddleware
from langchain_core.messages import AnyMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph.state import CompiledStateGraph

from runner_service.agent.capabilities import AgentPlan, SubAgentPlan
from runner_service.agent.message_list import AgentState
from runner_service.agent.middleware import TodoList, lean_middleware
from runner_service.agent.model_calls import ModelCalls, RetryPolicy
from runner_service.agent.model_stream import SummaryUsage
from runner_service.agent.tool_calls import SandboxTools
from runner_service.agent.tool_descriptions import DESCRIPTIONS
from runner_service.agent.tools.backend import SandboxBackend
from runner_service.models import ModelChoice
from runner_service.models.chat_model import StreamingChatModel
from runner_service.models.clients import ModelClients

Graph = CompiledStateGraph[Any, Any, Any, Any]

_MAX_CACHED_GRAPHS = 64
_ENVIRONMENT_PROMPT = (
    "Your tools work in one directory, the user's. Commands start in it, and to the file tools `/` means it. "
    "A secret that you would see is replaced by [redacted:secret]; commands have the real value in their environment."
)


_FINISHING_PROMPT = "When you are done, answer with what the user wants to know."
_GENERAL_PURPOSE = "Does a task of several steps on its own, with the same tools as you."


class CompiledAgent(NamedTuple):
    """The graph of an agent. `entry` is the same graph for a new thread, whose `first_input` goes to the model at once.

    Between `START` and the model is a superstep, a sixteenth of a short execution. A thread that has a checkpoint needs
    it: LangGraph stores input of other channels with that checkpoint, and keeps there what a crash has left of it.
    """

    graph: Graph
    entry: Graph

    @classmethod
    def of(cls, graph: Graph) -> "CompiledAgent":
        """Returns both, of one graph."""
        return cls(graph, graph.copy({"input_channels": ["messages", *graph.nodes["model"].triggers]}))

    def first_input(self, messages: Sequence[AnyMessage]) -> dict[str, Any]:
        """Returns the input that begins a new thread."""
        return {"messages": messages, **dict.fromkeys(self.graph.nodes["model"].triggers)}


class _Key(NamedTuple):
    model: ModelChoice
    plan: AgentPlan


class GraphCache:
    """LRU cache of compiled agents. Used on the event loop only."""

    def __init__(self, clients: ModelClients, checkpoints: BaseCheckpointSaver[Any], retries: RetryPolicy) -> None:
        self._clients = clients
        self._checkpoints = checkpoints
        self._retries = retries
        self._graphs: OrderedDict[_Key, CompiledAgent] = OrderedDict()
        self._lock = asyncio.Lock()

    async def agent(self, model: ModelChoice, plan: AgentPlan) -> CompiledAgent:
        """Returns the compiled agent for a plan and a model. Raises ModelRejectedEnd."""
        key = _Key(model, plan)
        async with self._lock:
            if plan.tools:  # MCP tools hold a connection of one execution
                return await self._compile(key)
            if key not in self._graphs:
                self._graphs[key] = await self._compile(key)
            self._graphs.move_to_end(key)
            if len(self._graphs) > _MAX_CACHED_GRAPHS:
                self._graphs.popitem(last=False)
            return self._graphs[key]

    async def _compile(self, key: _Key) -> CompiledAgent:
        client = await self._clients.chat_model(key.model)
        graph = await asyncio.to_thread(build_graph, client, key.plan, self._checkpoints, self._retries)
        return CompiledAgent.of(graph)


def build_graph(
    model: StreamingChatModel, plan: AgentPlan, checkpoints: BaseCheckpointSaver[str] | None, retries: RetryPolicy
) -> Graph:
    """Compiles an agent. Holds no state of an execution except the plan's tools."""
    streaming_model = model.model_copy(update={"callbacks": [SummaryUsage()]})
    # Sub-agents do not inherit middleware, so the default sub-agent of deepagents is declared here with ours.
    middleware = partial(_middleware, streaming_model, retries)
    general = SubAgent(
        name=GENERAL_PURPOSE_SUBAGENT["name"],
        description=_GENERAL_PURPOSE,
        system_prompt=f"{GENERAL_PURPOSE_SUBAGENT['system_prompt']}\n\n{_FINISHING_PROMPT}",
        middleware=middleware(),
    )
    agent: Graph = create_deep_agent(
        streaming_model,
        tools=plan.tools,
        system_prompt=_prompt(plan.instructions),
        middleware=middleware(),
        subagents=[general, *(_sub_agent(each, middleware()) for each in plan.sub_agents)],
        backend=SandboxBackend(),
        checkpointer=checkpoints,
        state_schema=AgentState,
    )
    return agent.copy({"config": None})  # its metadata, for traces, would be merged into that of each task


def _sub_agent(plan: SubAgentPlan, middleware: list[AgentMiddleware[Any, Any, Any]]) -> SubAgent:
    return SubAgent(
        name=plan.name,
        description=plan.description,
        system_prompt=_prompt(plan.instructions),
        tools=plan.tools,
        middleware=middleware,
    )


def _prompt(instructions: str) -> str:
    return "\n\n".join(filter(None, (instructions, _ENVIRONMENT_PROMPT, _FINISHING_PROMPT)))


def _middleware(model: StreamingChatModel, retries: RetryPolicy) -> list[AgentMiddleware[Any, Any, Any]]:
    todos = TodoList(tool_description=DESCRIPTIONS["write_todos"])
    return [*lean_middleware(model), SandboxTools(), todos, ModelCalls(retries)]
