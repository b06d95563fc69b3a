"""Replaces middleware of deepagents, by its name, with what does the same at less cost.

- A hook before or after the agent or its model is a node of the graph: a superstep with a checkpoint of its own.
- What is asked about every message at every model call is computed once for each message, or a step would cost more
  the longer the conversation is.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from deepagents.middleware.summarization import SummarizationMiddleware, compute_summarization_defaults
from deepagents.middleware.unsupported_content import UnsupportedContentMiddleware
from langchain.agents.middleware import AgentMiddleware, ModelRequest, ModelResponse, TodoListMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, ToolCall
from langchain_core.messages.utils import count_tokens_approximately
from langchain_core.tools import BaseTool

from runner_service.agent.filesystem_middleware import ModelHandler
from runner_service.agent.tool_descriptions import with_short_texts
from runner_service.agent.tools.backend import SandboxBackend
from runner_service.models.chat_model import StreamingChatModel
from runner_service.models.incremental_fold import IncrementalFold
from runner_service.models.per_message import PerMessage

_Tools = Sequence[BaseTool | dict[str, Any]]

_CHARACTERS_PER_TOKEN, _CHARACTERS_PER_ANTHROPIC_TOKEN = 4.0, 3.3
_MAX_USAGE_SCALE = 1.25
_MAX_COUNTED_TOOLSETS = 64
_SHORTENED_AT_ONCE = 50  # messages
_WRITING_TOOLS = frozenset({"write_file", "edit_file"})


def lean_middleware(model: StreamingChatModel) -> list[AgentMiddleware[Any, Any, Any]]:
    """Returns the replacements, for one agent of this model."""
    return [
        _Nothing("_ParentNotifierMiddleware"),  # no agent of ours is started by another service
        _Nothing("PatchToolCallsMiddleware"),  # `session_handover` and `history` answer such calls
        _DirectCall(model),
        _Summaries(model),
    ]


@dataclass
class _LongCalls:
    """Where the messages are, of the first `count` ones, whose arguments are to be shortened."""

    count: int = 0
    indices: list[int] = field(default_factory=list)


class _Summaries(SummarizationMiddleware):
    """Shortens long arguments of old calls in batches, and to the same copies each time.

    A conversation that changes in its middle at each step would be converted anew as a whole, and no provider could
    find the beginning of it in its cache.
    """

    def __init__(self, model: StreamingChatModel) -> None:
        super().__init__(
            model,
            backend=SandboxBackend(),
            token_counter=TokenCounter(model),
            trim_tokens_to_summarize=None,
            **compute_summarization_defaults(model),
        )
        self._shortened = PerMessage(self._shorten)
        self._long_calls = IncrementalFold(_LongCalls, self._add)

    @property
    def name(self) -> str:
        """The name of the middleware that it replaces."""
        return self.serialized_name

    def _truncate_args(self, messages: list[AnyMessage], total_tokens: int) -> tuple[list[AnyMessage], bool]:
        if not self._should_truncate_args(messages, total_tokens):
            return messages, False
        cutoff = self._determine_truncate_cutoff_index(messages)
        indices = self._long_calls(messages[: cutoff - cutoff % _SHORTENED_AT_ONCE]).indices
        if not indices:
            return messages, False
        shortened = list(messages)
        for index in indices:
            shortened[index] = self._shortened(messages[index])  # type: ignore[arg-type]  # a message of the model
        return shortened, True

    def _add(self, to: _LongCalls, message: BaseMessage) -> None:
        if isinstance(message, AIMessage) and self._shortened_calls(message) != message.tool_calls:
            to.indices.append(to.count)
        to.count += 1

    def _shorten(self, message: AIMessage) -> AIMessage:
        return message.model_copy(update={"tool_calls": self._shortened_calls(message)})

    def _shortened_calls(self, message: AIMessage) -> list[ToolCall]:
        calls = message.tool_calls
        return [self._truncate_tool_call(each) if each["name"] in _WRITING_TOOLS else each for each in calls]


class TodoList(TodoListMiddleware):
    """Leaves it to the call of the tool to refuse a second list in one message, and the prompt as it is."""

    after_model = AgentMiddleware.after_model
    aafter_model = AgentMiddleware.aafter_model
    wrap_model_call = AgentMiddleware.wrap_model_call  # type: ignore[assignment]  # it may return more
    awrap_model_call = AgentMiddleware.awrap_model_call  # type: ignore[assignment]  # as well


@dataclass
class _Count:
    """Tokens of a conversation; those that the provider reported with its last answer, and that were counted then."""

    tokens: int = 0
    reported: int = 0
    counted_then: int = 0
    providers: set[str] = field(default_factory=set)


class TokenCounter:
    """Counts tokens as LangChain's summarisation does by default."""

    def __init__(self, model: BaseChatModel) -> None:
        is_anthropic = str(model.asdict()["_type"]).startswith("anthropic-chat")
        per_token = _CHARACTERS_PER_ANTHROPIC_TOKEN if is_anthropic else _CHARACTERS_PER_TOKEN
        self._count = partial(count_tokens_approximately, chars_per_token=per_token)
        self._of_message: PerMessage[BaseMessage, int] = PerMessage(lambda message: self._count([message]))
        self._of_conversation = IncrementalFold(_Count, self._add)
        self._of_tools: dict[tuple[int, ...], tuple[_Tools, int]] = {}

    def __call__(self, messages: Iterable[Any], *, tools: _Tools | None = None) -> int:
        """Returns the tokens of messages, approximately; of a whole request, with tools, more if its last usage was."""
        if not tools:
            return sum(map(self._of_message, messages))
        known = self._of_conversation(list(messages))
        of_tools = self._tools(tools)
        count = of_tools + known.tokens
        if known.counted_then and len(known.providers) == 1 and known.providers != {""}:
            scale = known.reported / (of_tools + known.counted_then)
            return math.ceil(count * min(_MAX_USAGE_SCALE, max(1.0, scale)))
        return count

    def _add(self, to: _Count, message: BaseMessage) -> None:
        to.tokens += self._of_message(message)
        if isinstance(message, AIMessage):
            to.providers.add(message.response_metadata.get("model_provider") or "")
            if message.usage_metadata and (reported := message.usage_metadata["total_tokens"]):
                to.reported, to.counted_then = reported, to.tokens

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


class _DirectCall(UnsupportedContentMiddleware[Any, Any]):
    """Calls the model itself, in the place of what deepagents has between `ModelCalls` and the model.

    LangChain's way to it looks at each message five times, and converts the tools, for every call. Content that the
    model does not take is looked for only where there can be any. `models.anthropic` asks for caching itself.
    """

    def __init__(self, model: StreamingChatModel) -> None:
        super().__init__()
        self._model = model
        self._bound: tuple[_Tools, dict[str, Any], Mapping[str, Any]] | None = None
        self._kinds_of_content: IncrementalFold[set[type]] = IncrementalFold(set, _add_kind)

    @property
    def name(self) -> str:
        """The name of the middleware that it replaces, the innermost one in sub-agents, too."""
        return "AnthropicPromptCachingMiddleware"

    async def awrap_model_call(self, request: ModelRequest[Any], handler: ModelHandler) -> ModelResponse[Any]:
        """Calls the model. Raises as `StreamingChatModel.answer` does."""
        del handler  # LangChain's way
        if self._kinds_of_content(request.messages) <= {str}:
            return await self._call(request)
        response: Any = await super().awrap_model_call(request, self._call)
        return response  # type: ignore[no-any-return]  # what `_call` has returned

    async def _call(self, request: ModelRequest[Any]) -> ModelResponse[Any]:
        messages: list[BaseMessage] = [*request.messages]
        if request.system_message:
            messages.insert(0, request.system_message)
        return ModelResponse(result=[await self._model.answer(messages, **self._options(request))])

    def _options(self, request: ModelRequest[Any]) -> Mapping[str, Any]:
        """What the model makes of the tools, which are mostly those of the last request."""
        if self._bound and self._bound[:2] == (request.tools, request.model_settings):
            return self._bound[2]
        bound = self._model.bind_tools(with_short_texts(request.tools), **request.model_settings)
        options: Mapping[str, Any] = bound.kwargs  # type: ignore[attr-defined]  # it is a RunnableBinding
        self._bound = (request.tools, request.model_settings, options)
        return options

    def _filter_message(self, message: AnyMessage, *, model: BaseChatModel) -> AnyMessage:
        return message if isinstance(message.content, str) else super()._filter_message(message, model=model)


def _add_kind(to: set[type], message: BaseMessage) -> None:
    to.add(type(message.content))
