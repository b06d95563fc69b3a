"""Replaces middleware of deepagents, by its name, with what does the same at less cost.

- A hook before or after the agent or its model is a node of the graph: a superstep with a checkpoint of its own.
- What is asked about every message at every model call is computed once for each message, or a step would cost more
  the longer the conversation is.
"""

import math
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from deepagents.middleware.summarization import create_summarization_middleware
from deepagents.middleware.unsupported_content import UnsupportedContentMiddleware
from langchain.agents.middleware import AgentMiddleware, TodoListMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.tools import BaseTool

from runner_service.agent.tools.backend import SandboxBackend
from runner_service.models.per_message import PerMessage

_Tools = Sequence[BaseTool | dict[str, Any]]

_CHARACTERS_PER_TOKEN, _CHARACTERS_PER_ANTHROPIC_TOKEN = 4.0, 3.3
_MAX_USAGE_SCALE = 1.25
_MAX_COUNTED_TOOLSETS = 64


def lean_middleware(model: BaseChatModel) -> list[AgentMiddleware[Any, Any, Any]]:
    """Returns the replacements, for one agent of this model."""
    return [
        _Nothing("_ParentNotifierMiddleware"),  # no agent of ours is started by another service
        _Nothing("PatchToolCallsMiddleware"),  # `session_handover` and `history` answer such calls
        _PlainTextIsSupported(),
        create_summarization_middleware(model, SandboxBackend(), token_counter=TokenCounter(model)),
    ]


class TodoList(TodoListMiddleware):
    """Leaves it to the call of the tool to refuse a second list in one message."""

    after_model = AgentMiddleware.after_model
    aafter_model = AgentMiddleware.aafter_model


class TokenCounter:
    """Counts tokens as LangChain's summarisation does by default."""

    def __init__(self, model: BaseChatModel) -> None:
        is_anthropic = str(model.asdict()["_type"]).startswith("anthropic-chat")
        per_token = _CHARACTERS_PER_ANTHROPIC_TOKEN if is_anthropic else _CHARACTERS_PER_TOKEN
        self._count = partial(count_tokens_approximately, chars_per_token=per_token)
        self._of_message = PerMessage(self._count_one)
        self._of_tools: dict[tuple[int, ...], tuple[_Tools, int]] = {}

    def __call__(self, messages: Iterable[Any], *, tools: _Tools | None = None) -> int:
        """Returns the tokens of messages, approximately; of a whole request, with tools, more if its last usage was."""
        count = self._tools(tools) if tools else 0
        reported, counted_then = 0, 0
        providers: set[str] = set()
        for message in messages:
            tokens, provider, usage = self._of_message(message)
            count += tokens
            if provider is not None:
                providers.add(provider)
                if usage:
                    reported, counted_then = usage, count
        if tools and counted_then and len(providers) == 1 and providers != {""}:
            return math.ceil(count * min(_MAX_USAGE_SCALE, max(1.0, reported / counted_then)))
        return count

    def _count_one(self, message: BaseMessage) -> tuple[int, str | None, int]:
        """Returns its tokens and, of an answer, its provider and the tokens that were reported then."""
        tokens = self._count([message])
        if not isinstance(message, AIMessage):
            return tokens, None, 0
        reported = message.usage_metadata["total_tokens"] if message.usage_metadata else 0
        return tokens, message.response_metadata.get("model_provider") or "", reported

    def _tools(self, tools: _Tools) -> int:
        key = tuple(map(id, tools))
        if key not in self._of_tools:
            if len(self._of_tools) >= _MAX_COUNTED_TOOLSETS:
                self._of_tools.clear()
            self._of_tools[key] = (list(tools), self._count([], tools=list(tools)))  # kept alive, or ids were reused
        return self._of_tools[key][1]


class _Nothing(AgentMiddleware[Any, Any, Any]):
    """Does nothing in the place of another."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    @property
    def name(self) -> str:
        """The name of what it replaces."""
        return self._name


class _PlainTextIsSupported(UnsupportedContentMiddleware[Any, Any]):
    """Looks for content that the model does not take only where there can be any."""

    @property
    def name(self) -> str:
        """The name of the middleware that it replaces."""
        return UnsupportedContentMiddleware.__name__

    def _filter_message(self, message: AnyMessage, *, model: BaseChatModel) -> AnyMessage:
        return message if isinstance(message.content, str) else super()._filter_message(message, model=model)
