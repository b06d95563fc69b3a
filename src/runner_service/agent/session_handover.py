"""Carries tool results over to the session's next execution, and drops messages that a provider refused."""

from collections.abc import Iterable, Sequence

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.constants import START

from runner_service.agent.graphs import Graph
from runner_service.models.history import leave_out_refused, unanswered

_MESSAGES = "messages"


async def keep_results(
    graph: Graph, saver: BaseCheckpointSaver[str], results: Iterable[ToolMessage], config: RunnableConfig
) -> None:
    """Adds results of calls to the session's checkpoint that lacks them.

    A call that ended just before its execution was cancelled is known to have ended, and not yet checkpointed.
    """
    state = await graph.aget_state(config)
    messages = state.values.get(_MESSAGES, [])  # with what was recorded of the step under way
    without_result = _last_calls(messages).keys() - _answered(messages)
    for result in results:
        if result.tool_call_id in without_result:
            await saver.aput_writes(state.config, [(_MESSAGES, [result])], f"kept-{result.tool_call_id}")


async def missing_results(graph: Graph, saver: BaseCheckpointSaver[str], config: RunnableConfig) -> list[ToolMessage]:
    """Returns results of the calls that the last execution of the session left without one.

    A call may have ended in a step that was not finished; of others it is said that they did not complete.
    """
    checkpoint = await saver.aget_tuple(config)
    if checkpoint is None:
        return []
    messages = (await graph.aget_state(config)).values.get(_MESSAGES, [])
    calls, answered = _last_calls(messages), _answered(messages)
    results = {call_id: unanswered(name, call_id) for call_id, name in calls.items() if call_id not in answered}
    recorded: dict[str, ToolMessage] = {}
    for _, channel, value in checkpoint.pending_writes or ():
        for message in value if channel == _MESSAGES and isinstance(value, list) else ():
            if isinstance(message, ToolMessage) and message.tool_call_id in calls:
                recorded.setdefault(message.tool_call_id, message)
    return list((results | recorded).values())


async def leave_out_last_messages(graph: Graph, config: RunnableConfig) -> bool:
    """Replaces what was new in a refused request, so that the session's next one is not refused for it."""
    state = await graph.aget_state(config)
    replacements = leave_out_refused(state.values.get(_MESSAGES, []))
    if replacements:
        await graph.aupdate_state(config, {_MESSAGES: replacements}, as_node=START)
    return bool(replacements)


async def enter_graph(graph: Graph, config: RunnableConfig, last: BaseMessage) -> None:
    """Lets a conversation go on whose next node there is not: it has ended, or an earlier version had that node."""
    node = "model" if isinstance(last, AIMessage) else START
    await graph.aupdate_state(config, {_MESSAGES: []}, as_node=node)


def _answered(messages: Iterable[BaseMessage]) -> set[str]:
    return {each.tool_call_id for each in messages if isinstance(each, ToolMessage)}


def _last_calls(messages: Sequence[BaseMessage]) -> dict[str, str]:
    """The calls in the model's last message: their names by their ids."""
    last = next((each for each in reversed(messages) if isinstance(each, AIMessage)), None)
    return {str(call["id"]): call["name"] for call in last.tool_calls} if last else {}
