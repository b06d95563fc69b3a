"""Runs agents. Built once per process: compiled agents, clients of models and checkpoints are shared."""

import asyncio
import logging
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import Context
from pathlib import Path
from typing import Any

import langsmith
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig

from runner_service.agent.checkpoints import InlineSqliteSaver, checkpoint_saver
from runner_service.agent.graphs import Graph, Graphs, build_graph
from runner_service.agent.journal import Journal, current_journal
from runner_service.agent.model_calls import Retries
from runner_service.agent_run import AgentRun
from runner_service.errors import ExecutionEnd, ModelRejectedEnd, ModelUnavailableEnd
from runner_service.models.clients import model_clients
from runner_service.models.failures import classify
from runner_service.models.script import Script, Turn
from runner_service.models.scripted import ScriptedChatModel
from runner_service.tools.scope import RunScope, current_scope

logger = logging.getLogger(__name__)

_STEPS_PER_MODEL_CALL = 10
"""More than a model call, its tools and what stands around them can take: the limits end an agent, not this."""


class AgentHarness:
    """Runs any number of agents at once. Construct it with `agent_harness`."""

    def __init__(self, graphs: Graphs, checkpoints: InlineSqliteSaver, journal: Journal, directory: Path) -> None:
        self._graphs = graphs
        self._checkpoints = checkpoints
        self._journal = journal
        self._directory = directory

    async def run(self, run: AgentRun) -> str:
        """Runs an agent until it gives its final answer, and returns that, without secrets.

        With a resumption it goes on from the last checkpoint: what has ended is not done again, and of what was under
        way the model is told that its effects are not known.

        Cancelling it ends what it does. When it will not go on, `forget` it.

        Raises:
            ExecutionEnd: it ended without an answer; the class says why.
        """
        scope_token = current_scope.set(RunScope(run, self._directory / _thread_id(run)))
        journal_token = current_journal.set(self._journal)
        try:
            return await self._invoke(run)
        finally:
            current_journal.reset(journal_token)
            current_scope.reset(scope_token)

    async def forget(self, run: AgentRun) -> None:
        """Forgets the conversation of an execution that is finished for good, unless it is a session's."""
        self._journal.forget(run.execution_id)
        if not run.session_id:
            await self._checkpoints.adelete_thread(_thread_id(run))
            await asyncio.to_thread(shutil.rmtree, self._directory / _thread_id(run), ignore_errors=True)

    async def _invoke(self, run: AgentRun) -> str:
        redact = run.redactor.text
        graph = await self._graphs.graph(run.model, redact(run.agent.instructions))
        config = RunnableConfig(
            configurable={"thread_id": _thread_id(run)},
            recursion_limit=run.limits.max_model_calls * _STEPS_PER_MODEL_CALL + 100,
        )
        wish = HumanMessage(redact(run.message), id=f"{run.execution_id}-wish")
        goes_on = run.resumption is not None and await _holds(graph, config, wish)
        try:
            # "sync": with any other durability a command that has ended runs again after a crash.
            state = await graph.ainvoke(None if goes_on else {"messages": [wish]}, config, durability="sync")
        except ExecutionEnd:
            raise
        except Exception as error:
            raise _named(error, run) from error
        return _answer(state)


@asynccontextmanager
async def agent_harness(state_dir: Path, *, retries: Retries | None = None) -> AsyncIterator[AgentHarness]:
    """Opens what agents run on; `state_dir` holds their checkpoints. Raises OSError, sqlite3.Error."""
    langsmith.set_runtime_overrides(aio_to_thread=_inline)
    async with checkpoint_saver(state_dir / "checkpoints.db") as checkpoints, model_clients() as clients:
        journal = Journal(checkpoints.conn, checkpoints.serde)
        graphs = Graphs(clients, checkpoints, retries or Retries())
        yield AgentHarness(graphs, checkpoints, journal, state_dir / "agents")


def warm_up() -> None:
    """Compiles an agent and throws it away: the first one takes three times as long as any other."""
    build_graph(ScriptedChatModel(script=Script(turns=[Turn()])), "", None, Retries())


async def _inline(default: Any, context: Context, function: Any, /, *args: Any, **kwargs: Any) -> Any:
    """Runs at once what langsmith would run in a thread, 15 times a step, though there is nothing to trace."""
    del default
    return context.run(function, *args, **kwargs)


def _thread_id(run: AgentRun) -> str:
    return f"thread-{run.session_id}" if run.session_id else f"execution-{run.execution_id}"


async def _holds(graph: Graph, config: RunnableConfig, wish: HumanMessage) -> bool:
    """Says whether a conversation has got as far as what this execution was asked."""
    state = await graph.aget_state(config)
    return any(message.id == wish.id for message in state.values.get("messages", []))


def _named(error: Exception, run: AgentRun) -> Exception:
    """The end that a provider's failure means; any other error is a defect, and stays what it is."""
    failure = classify(error)
    if failure is None:
        return error
    text = run.redactor.text(failure.text)
    return ModelRejectedEnd(text) if failure.kind == "rejected" else ModelUnavailableEnd(text)


def _answer(state: dict[str, Any]) -> str:
    said = [each for each in state["messages"] if isinstance(each, AIMessage)]
    return str(said[-1].text) if said else ""
