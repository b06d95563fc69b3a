"""Runs agents. One per process: compiled graphs, model clients and checkpoints are shared."""

import logging
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.runnables import RunnableConfig

from runner_service.agent.capabilities import AgentPlan, prepare_agent
from runner_service.agent.factory_overrides import override_factory
from runner_service.agent.failures import end_for
from runner_service.agent.graphs import Graph, GraphCache, build_graph
from runner_service.agent.interface import AgentRun, ParkedError
from runner_service.agent.journal import Journal
from runner_service.agent.model_calls import RetryPolicy
from runner_service.agent.session_handover import enter_graph, keep_results, leave_out_last_messages, missing_results
from runner_service.agent.tools.scope import RunScope, current_scope
from runner_service.errors import ExecutionEnd, ModelRejectedEnd
from runner_service.models.clients import model_clients, retirement_date
from runner_service.models.script import Script, Turn
from runner_service.models.scripted import ScriptedChatModel
from runner_service.storage.backend import Storage
from runner_service.storage.checkpoints import Checkpoints, OpenCheckpoints
from runner_service.storage.event_log import LogError
from runner_service.v1 import execution_event_pb2 as event_pb2

logger = logging.getLogger(__name__)

_EXECUTION_PREFIX = "execution-"
_SESSION_PREFIX = "thread-"
_STEPS_PER_MODEL_CALL = 10
"""Above what a model call with its tools can take: the limits of the request end an agent, not this."""


_BACKGROUND_ENDED = (
    "processes that commands had left running are ended, since the execution now waits for approval without any"
)
_LEFT_OUT = "what the provider refused is left out of the session, which can go on without it"


class AgentHarness:
    """Runs any number of agents at once. Construct it with `agent_harness`."""

    def __init__(self, graphs: GraphCache, checkpoints: Checkpoints, storage: Storage) -> None:
        self._graphs = graphs
        self._checkpoints = checkpoints
        self._storage = storage

    async def run(self, run: AgentRun) -> str:
        """Runs an agent to its final answer, and returns that, redacted.

        With a resumption it continues from the last checkpoint: finished tool calls are not repeated; interrupted ones
        become results that say that their effects are unknown.

        Cancellation ends its tool calls. Call `forget` once the execution will not be resumed.

        Raises:
            ExecutionEnd: ended without an answer; the class says why.
            ParkedError: tool calls wait for approvals, and nothing else is left to do.
        """
        journal = Journal(run.events, self._storage.log, self._checkpoints.saver.serde)
        run_id = await journal.begin_run(resumes=run.resumption is not None)
        scratch = partial(self._storage.scratch_files.backend, _thread_id(run))
        scope_token = current_scope.set(RunScope(run, journal, scratch, run_id))
        try:
            async with prepare_agent(run) as plan:
                return await self._invoke(run, plan)
        finally:
            current_scope.reset(scope_token)

    async def kept(self) -> Collection[str]:
        """Returns the executions of which something is kept, other than the conversation of their session."""
        return await self._kept_with_prefix(_EXECUTION_PREFIX)

    async def kept_sessions(self) -> Collection[str]:
        """Returns the sessions whose conversation is kept."""
        return await self._kept_with_prefix(_SESSION_PREFIX)

    async def _kept_with_prefix(self, prefix: str) -> Collection[str]:
        try:
            checkpointed = await self._checkpoints.thread_ids()
            threads = {*checkpointed, *await self._storage.scratch_files.thread_ids()}
        except (LogError, OSError) as error:
            logger.warning("kept_unknown error=%s", error)
            return ()
        return {each.removeprefix(prefix) for each in threads if each.startswith(prefix)}

    async def forget(self, execution_id: str, session_id: str) -> None:
        """Forgets an execution that is finished for good: its conversation too, unless that is a session's.

        What cannot be removed now stays among the `kept`.
        """
        if session_id:
            return
        thread = f"{_EXECUTION_PREFIX}{execution_id}"
        try:
            await self._checkpoints.delete_thread(thread)
            await self._storage.scratch_files.delete_thread(thread)
        except (LogError, OSError) as error:
            logger.warning("forgetting_failed execution=%s error=%s", execution_id, error)

    async def forget_session(self, session_id: str) -> None:
        """Deletes the conversation of a session. Raises LogError, OSError."""
        thread = f"{_SESSION_PREFIX}{session_id}"
        await self._checkpoints.delete_thread(thread)
        await self._storage.scratch_files.delete_thread(thread)

    async def _invoke(self, run: AgentRun, plan: AgentPlan) -> str:
        agent = await self._graphs.agent(run.model, plan)
        graph = agent.graph
        if run.resumption is None:
            _publish_retirement(run)
        config = _config(_thread_id(run), run.limits.max_model_calls * _STEPS_PER_MODEL_CALL + 100)
        user_message = HumanMessage(await run.redactor.any_value(run.message), id=f"{current_scope.get().run_id}-wish")
        saver = self._checkpoints.saver
        try:
            if run.session_id:
                await self._checkpoints.enter(_thread_id(run), run.execution_id)
            continues = run.resumption is not None and await _can_continue(graph, config, user_message)
            # With any durability but "sync" a finished command runs again after a crash.
            if run.session_id or run.resumption is not None:
                left = await missing_results(graph, saver, config) if run.session_id and not continues else []
                given = None if continues else {"messages": [*left, user_message]}
                state = await graph.ainvoke(given, config, durability="sync")
            else:
                state = await agent.entry.ainvoke(agent.first_input([user_message]), config, durability="sync")
        except BaseException as error:
            end = end_for(error, run)
            if run.session_id:
                await self._settle_session(run, graph, config, end)
            if end is None or end is error:
                raise
            raise end from error
        if "__interrupt__" in state:
            if current_scope.get().has_background_processes:
                _publish_warning(run, "BACKGROUND_ENDED", _BACKGROUND_ENDED)
            raise ParkedError
        return _answer(state)

    async def _settle_session(
        self, run: AgentRun, graph: Graph, config: RunnableConfig, end: ExecutionEnd | None
    ) -> None:
        """Leaves the conversation as the log has it, and without what the provider would refuse again."""
        try:
            await keep_results(graph, self._checkpoints.saver, current_scope.get().step_results.values(), config)
            refused = isinstance(end, ModelRejectedEnd) and end.refuses_content
            if refused and await leave_out_last_messages(graph, config):
                _publish_warning(run, "MESSAGE_LEFT_OUT", _LEFT_OUT)
        except LogError as error:
            logger.warning("session_not_settled error=%s", error)


@asynccontextmanager
async def agent_harness(
    storage: Storage, open_checkpoints: OpenCheckpoints, *, retries: RetryPolicy | None = None
) -> AsyncIterator[AgentHarness]:
    """Opens the harness with its checkpoints. Raises LogError."""
    override_factory()
    async with open_checkpoints() as checkpoints, model_clients() as clients:
        graphs = GraphCache(clients, checkpoints.saver, retries or RetryPolicy())
        yield AgentHarness(graphs, checkpoints, storage)


def warm_up() -> None:
    """Compiles and discards an agent: the first compilation takes three times as long as later ones."""
    build_graph(ScriptedChatModel(script=Script(turns=[Turn()])), AgentPlan(""), None, RetryPolicy())


def _publish_warning(run: AgentRun, code: str, text: str) -> None:
    run.events.publish(event_pb2.Notice(level=event_pb2.Notice.LEVEL_WARNING, code=code, text=text))


def _config(thread_id: str, recursion_limit: int = 100) -> RunnableConfig:
    return RunnableConfig(configurable={"thread_id": thread_id}, recursion_limit=recursion_limit)


def _publish_retirement(run: AgentRun) -> None:
    if day := retirement_date(run.model):
        model = f"{run.model.provider}/{run.model_name}"
        logger.warning("model_retires model=%s day=%s", model, day)
        text = f"{model} is out of service after {day}; name another model, or change the default, STIGMER_LLM_MODEL"
        _publish_warning(run, "MODEL_RETIRES", text)


def _thread_id(run: AgentRun) -> str:
    return f"{_SESSION_PREFIX}{run.session_id}" if run.session_id else f"{_EXECUTION_PREFIX}{run.execution_id}"


async def _can_continue(graph: Graph, config: RunnableConfig, user_message: HumanMessage) -> bool:
    """Whether the checkpointed conversation contains this execution's user message, and can go on from there."""
    state = await graph.aget_state(config)
    messages = state.values.get("messages", [])
    if not any(message.id == user_message.id for message in messages):
        return False
    if not state.next:
        await enter_graph(graph, config, messages[-1])
    return True


def _answer(state: dict[str, Any]) -> str:
    said = [each for each in state["messages"] if isinstance(each, AIMessage)]
    return str(said[-1].text) if said else ""
