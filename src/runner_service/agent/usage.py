"""Counts and limits model calls, tokens and tool calls."""

from langchain_core.messages import AIMessage, BaseMessage

from runner_service.agent.interface import AgentRun
from runner_service.errors import LimitExceededEnd
from runner_service.telemetry import metrics
from runner_service.v1 import execution_event_pb2 as event_pb2


def count_usage(run: AgentRun, message: BaseMessage, model: str) -> event_pb2.Usage:
    """Counts a call of a model, its tokens and cost, publishes the totals, and returns the usage of this call."""
    usage = event_pb2.Usage(model_calls=1)
    if isinstance(message, AIMessage) and (reported := message.usage_metadata):
        usage.input_tokens = reported["input_tokens"]
        usage.output_tokens = reported["output_tokens"]
        usage.cached_tokens = reported.get("input_token_details", {}).get("cache_read") or 0
    run.usage.input_tokens += usage.input_tokens
    run.usage.output_tokens += usage.output_tokens
    run.usage.cached_tokens += usage.cached_tokens
    run.usage.model_calls += 1
    run.usage.stored_bytes = run.events.quota.used
    updated = event_pb2.UsageUpdated(usage=run.usage)
    if run.prices:
        metrics.cost_added(run.model.provider, model, run.prices.add(run.cost, run.model.provider, model, usage))
        updated.cost.CopyFrom(run.cost)
    run.events.publish(updated)
    return usage


def check_model_call(run: AgentRun) -> None:
    """Raises LimitExceededEnd when the model calls or tokens are used up."""
    if run.usage.model_calls >= run.limits.max_model_calls:
        raise LimitExceededEnd("max_model_calls", run.limits.max_model_calls)
    check_tokens(run)


def check_tokens(run: AgentRun) -> None:
    """Raises LimitExceededEnd when the tokens are used up."""
    if run.usage.input_tokens + run.usage.output_tokens >= run.limits.max_total_tokens:
        raise LimitExceededEnd("max_total_tokens", run.limits.max_total_tokens)


def count_tool_call(run: AgentRun, tool_call_id: str) -> None:
    """Counts a tool call unless an earlier process counted it. Raises LimitExceededEnd above the limit."""
    if run.resumption and tool_call_id in run.resumption.started_calls:
        return
    if run.usage.tool_calls >= run.limits.max_tool_calls:
        raise LimitExceededEnd("max_tool_calls", run.limits.max_tool_calls)
    run.usage.tool_calls += 1
