"""Agents, compiled: making one takes some 15 ms, so equal ones share it."""

import asyncio
from collections import OrderedDict
from typing import Any, NamedTuple

from deepagents import create_deep_agent
from deepagents.middleware.subagents import GENERAL_PURPOSE_SUBAGENT, SubAgent
from langchain.agents.middleware import AgentMiddleware, TodoListMiddleware
from langchain_core.language_models import BaseChatModel
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph.state import CompiledStateGraph

from runner_service.agent.model_calls import ModelCalls, Retries
from runner_service.agent.speech import SpeechListener
from runner_service.agent.tool_calls import SandboxTools
from runner_service.models import ModelChoice
from runner_service.models.clients import ModelClients
from runner_service.tools.backend import SandboxBackend

Graph = CompiledStateGraph[Any, Any, Any, Any]

_KEPT_GRAPHS = 64
_SURROUNDINGS = (
    "Your tools work in one directory, the user's. Commands start in it, and to the file tools `/` means it. "
    "A secret that you would see is replaced by [redacted:secret]; commands have the real value in their environment."
)


class _Key(NamedTuple):
    model: ModelChoice
    instructions: str


class Graphs:
    """Gives the compiled agent of an execution. Belongs to the event loop."""

    def __init__(self, clients: ModelClients, checkpoints: BaseCheckpointSaver[str], retries: Retries) -> None:
        self._clients = clients
        self._checkpoints = checkpoints
        self._retries = retries
        self._graphs: OrderedDict[_Key, Graph] = OrderedDict()
        self._making = asyncio.Lock()

    async def graph(self, model: ModelChoice, instructions: str) -> Graph:
        """Returns the agent with these instructions on this model. Raises ModelRejectedEnd."""
        key = _Key(model, instructions)
        async with self._making:
            if key not in self._graphs:
                client = await self._clients.chat_model(model)
                self._graphs[key] = await asyncio.to_thread(
                    build_graph, client, instructions, self._checkpoints, self._retries
                )
            self._graphs.move_to_end(key)
            if len(self._graphs) > _KEPT_GRAPHS:
                self._graphs.popitem(last=False)
            return self._graphs[key]


def build_graph(
    model: BaseChatModel, instructions: str, checkpoints: BaseCheckpointSaver[str] | None, retries: Retries
) -> Graph:
    """Compiles an agent. Nothing of an execution is in it."""
    speaking = model.model_copy(update={"callbacks": [SpeechListener()]})
    # Middleware is not inherited, so the sub-agent that deepagents would add by itself is declared, with its own.
    general = SubAgent(**GENERAL_PURPOSE_SUBAGENT, middleware=_middleware(retries))
    return create_deep_agent(
        speaking,
        system_prompt=f"{instructions}\n\n{_SURROUNDINGS}" if instructions else _SURROUNDINGS,
        middleware=_middleware(retries),
        subagents=[general],
        backend=SandboxBackend(),
        checkpointer=checkpoints,
    )


def _middleware(retries: Retries) -> list[AgentMiddleware[Any, Any, Any]]:
    return [SandboxTools(), TodoListMiddleware(), ModelCalls(retries)]
