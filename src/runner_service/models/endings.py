"""The ways in which a model's answer can end, and what follows from each."""

from enum import Enum


class Ending(Enum):
    """What follows from the end of an answer."""

    ANSWERED = "the agent has its answer, and ends"
    CALLS_TOOLS = "the tools run, and the agent continues"
    CUT_SHORT = "the answer is taken, with a notice; a tool call that was cut off is told to the model"
    EXHAUSTED = "the output limit was reached before any text: the execution fails with that reason"
    REFUSED = "the execution fails with the provider's words"
    OVERFLOWED = "the conversation is summarised, and the call made again"
    FAILED = "the call is made again"


_CALLS = frozenset({"tool_calls", "tool_use", "function_call", "tool_call"})
_CUT = frozenset({"length", "max_tokens", "max_output_tokens", "token_limit"})
_OVERFLOWED = frozenset(
    {"model_context_window_exceeded", "model_length", "context_length_exceeded", "context_overflow"}
)
_REFUSED = frozenset(
    {
        *("content_filter", "content_filtered", "refusal", "safety", "recitation", "blocklist", "prohibited_content"),
        *("spii", "image_safety", "sensitive", "guardrail_intervened", "language"),
    }
)
_FAILED = frozenset(
    {
        *("error", "malformed_function_call", "unexpected_tool_call", "insufficient_system_resource", "abort"),
        *("network_error", "cancelled", "load", "unload", "pause_turn", "other", "finish_reason_unspecified"),
        *("malformed_response", "missing_thought_signature", "too_many_tool_calls", "engine_error"),
    }
)


_BY_REASON = {
    **dict.fromkeys(_REFUSED, Ending.REFUSED),
    **dict.fromkeys(_OVERFLOWED, Ending.OVERFLOWED),
    **dict.fromkeys(_FAILED, Ending.FAILED),
}


def ending_of(stop_reason: str, *, has_text: bool, has_calls: bool) -> Ending:
    """Returns what follows from a stop reason of any provider, and from what the answer contains.

    Reasoning alone is no text. An unknown reason counts as a stop.
    """
    reason = stop_reason.strip().lower().replace("-", "_")
    if known := _BY_REASON.get(reason):
        return known
    if reason in _CUT:
        return Ending.CUT_SHORT if has_text or has_calls else Ending.EXHAUSTED
    if has_calls:
        return Ending.CALLS_TOOLS
    return Ending.FAILED if reason in _CALLS or not has_text else Ending.ANSWERED
