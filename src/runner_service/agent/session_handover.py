"""Carries tool results over to the session's next execution, and drops messages that a provider refused."""

from collections.abc import Iterable, Sequence

from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver

from runner_service.agent.graphs import Graph
from runner_service.models.history import leave_out_refused

_MESSAGES = "messages"


async def keep_results(
    graph: Graph, saver: BaseCheckpointSaver[str], results: Iterable[ToolMessage], config: RunnableConfig
) -> None:
    """Adds results of calls to the session's checkpoint that lacks them.

    A call that ended just before its execution was cancelled is known to have ended, and not yet checkpointed.
    """
    state = await graph.aget_state(config)
    messages = state.values.get(_MESSAGES, [])  # with what was recorded of the step under way
    unanswered = _last_calls(messages) - {each.tool_call_id for each in messages if isinstance(each, ToolMessage)}
    for result in results:
        if result.tool_call_id in unanswered:
            await saver.aput_writes(state.config, [(_MESSAGES, [result])], f"kept-{result.tool_call_id}")


async def unrecorded_results(
    graph: Graph, saver: BaseCheckpointSaver[str], config: RunnableConfig
) -> list[ToolMessage]:
    """Returns the results of calls which ended in a step that the last execution of the session did not finish."""
    checkpoint = await saver.aget_tuple(config)
    if checkpoint is None or not checkpoint.pending_writes:
        return []
    state = await graph.aget_state(config)
    calls = _last_calls(state.values.get(_MESSAGES, []))
    results: dict[str, ToolMessage] = {}
    for _, channel, value in checkpoint.pending_writes:
        for message in value if channel == _MESSAGES and isinstance(value, list) else ():
            if isinstance(message, ToolMessage) and message.tool_call_id in calls:
                results.setdefault(message.tool_call_id, message)
    return list(results.values())


async def leave_out_last_messages(graph: Graph, config: RunnableConfig) -> bool:
    """Replaces what was new in a refused request, so that the session's next one is not refused for it."""
    state = await graph.aget_state(config)
    replacements = leave_out_refused(state.values.get(_MESSAGES, []))
    if replacements:
        await graph.aupdate_state(config, {_MESSAGES: replacements}, as_node="__start__")
    return bool(replacements)


def _last_calls(messages: Sequence[BaseMessage]) -> set[str]:
    """The ids of the calls in the model's last message."""
    last = next((each for each in reversed(messages) if isinstance(each, AIMessage)), None)
    return {str(call["id"]) for call in last.tool_calls} if last else set()
