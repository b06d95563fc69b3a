"""The scripted model: plays turns from a file, so that a whole agent can be run, with real tools, without a provider.

docs/scripted-model.md describes the file. Which turn is played follows from the conversation alone, so any number of
executions may play one script at once, and one that was interrupted goes on where it was.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from typing import Any

import httpx2
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, HumanMessage, ToolCallChunk, ToolMessage
from langchain_core.messages.ai import UsageMetadata
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.runnables.config import ensure_config
from langchain_core.tools import BaseTool
from pydantic import PrivateAttr

from runner_service.models import DEMO_SCRIPT, ModelChoice
from runner_service.models.connections import Connections
from runner_service.models.script import Script, Turn, load_script

_PIECES = re.compile(r"\S+\s*|\s+")
_FIELDS = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_MAX_TRACKED_ATTEMPTS = 1000
_CHARACTERS_PER_TOKEN = 4


class ScriptedError(Exception):
    """A failure that the script asks for. It looks as a provider's does: `status_code`, `response.headers`."""

    def __init__(self, message: str, status_code: int | None, headers: dict[str, str]) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.response = httpx2.Response(status_code or 500, headers=headers)


class ScriptedChatModel(BaseChatModel):
    """Plays a script."""

    script: Script
    _tries: OrderedDict[tuple[object, int], int] = PrivateAttr(default_factory=OrderedDict)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Takes notice that there are tools: without them, what is asked for is a summary."""
        del tool_choice, kwargs  # a script has its own mind
        return self.bind(has_tools=bool(tools))

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        """Plays a turn at once."""
        del stop, run_manager  # nothing to stop at, nobody to tell
        chunks = list(self._play(self._turn(messages, **kwargs), messages))
        whole = chunks[0]
        for chunk in chunks[1:]:
            whole += chunk
        return ChatResult(generations=[ChatGeneration(message=whole.message)])

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        """Plays a turn as a provider would send it."""
        del stop, run_manager  # nothing to stop at, nobody to tell
        turn = self._turn(messages, **kwargs)
        fails = turn.error is not None and self._fails_now(turn, messages)
        for count, chunk in enumerate(self._play(turn, messages)):
            if fails and turn.error and count >= turn.error.after_pieces:
                raise turn.error.exception(ScriptedError)
            # Also without a delay the loop gets its turn, as it does while a network is waited for.
            await asyncio.sleep(turn.delay)
            yield chunk
        await asyncio.sleep(turn.silence)

    def _turn(self, messages: list[BaseMessage], *, has_tools: bool = False, **_: Any) -> Turn:
        if not has_tools:
            return Turn(text="(A summary of the conversation so far.)")
        turns = self.script.turns_for(_agent_name(), _first_user_message(messages))
        return turns[_answer_count(messages) % len(turns)]

    def _fails_now(self, turn: Turn, messages: list[BaseMessage]) -> bool:
        """Counts the tries of this turn in this conversation: the only thing that cannot be seen from outside."""
        asked = next((message.id for message in messages if isinstance(message, HumanMessage)), None)
        key = (asked or id(messages), _answer_count(messages))
        self._tries[key] = tries = self._tries.pop(key, 0) + 1
        if len(self._tries) > _MAX_TRACKED_ATTEMPTS:
            self._tries.popitem(last=False)
        return turn.error is not None and tries <= turn.error.times

    def _play(self, turn: Turn, messages: list[BaseMessage]) -> Iterator[ChatGenerationChunk]:
        values = _values(messages)
        reasoning, text = _fill(turn.reasoning, values), _fill(turn.text, values)
        for piece in _PIECES.findall(reasoning):
            yield _chunk("", additional_kwargs={"reasoning_content": piece})
        for piece in _PIECES.findall(text):
            yield _chunk(piece)
        answers = _answer_count(messages)
        for index, call in enumerate(turn.tool_calls):
            arguments = call.text_of(_fill(call.args, values))
            name = call.id or f"call-{answers + 1}-{index + 1}"
            part = ToolCallChunk(name=call.name, args=arguments, id=name, index=index, type="tool_call_chunk")
            yield _chunk("", tool_call_chunks=[part])
        said = reasoning + text + "".join(call.text_of(call.args) for call in turn.tool_calls)
        usage = _usage(turn, heard=sum(len(message.text) for message in messages), said=len(said))
        stop_reason = turn.stop_reason or ("tool_calls" if turn.tool_calls else "stop")
        yield _chunk("", usage_metadata=usage, response_metadata={"finish_reason": stop_reason})


def make_model(choice: ModelChoice, connections: Connections) -> BaseChatModel:  # noqa: ARG001  # as the other providers
    """Makes the model; reads its script.

    Raises:
        ModelRejectedEnd: the script is wrong; the text says where.
    """
    return ScriptedChatModel(script=load_script(choice.script or DEMO_SCRIPT))


def _chunk(text: str, **fields: Any) -> ChatGenerationChunk:
    info = fields.get("response_metadata")
    return ChatGenerationChunk(message=AIMessageChunk(content=text, **fields), generation_info=info)


def _answer_count(messages: Sequence[BaseMessage]) -> int:
    return sum(isinstance(message, AIMessage) for message in messages)


def _first_user_message(messages: Sequence[BaseMessage]) -> str:
    return next((message.text for message in messages if isinstance(message, HumanMessage)), "")


def _agent_name() -> str:
    name = ensure_config().get("metadata", {}).get("lc_agent_name")
    return str(name or "")


def _values(messages: Sequence[BaseMessage]) -> dict[str, str]:
    message = next((each.text for each in reversed(messages) if isinstance(each, HumanMessage)), "")
    result = next((each.text for each in reversed(messages) if isinstance(each, ToolMessage)), "")
    return {"message": message, "last_tool_result": result}


def _fill(value: Any, values: dict[str, str]) -> Any:
    match value:
        case str():
            return _FIELDS.sub(lambda field: values.get(field[1], field[0]), value)
        case dict():
            return {name: _fill(item, values) for name, item in value.items()}
        case list():
            return [_fill(item, values) for item in value]
        case _:
            return value


def _usage(turn: Turn, *, heard: int, said: int) -> UsageMetadata:
    given = turn.usage
    sent = given.input_tokens if given else heard // _CHARACTERS_PER_TOKEN + 1
    written = given.output_tokens if given else said // _CHARACTERS_PER_TOKEN + 1
    details = {"cache_read": given.cached_tokens if given else 0}
    return UsageMetadata(
        input_tokens=sent,
        output_tokens=written,
        total_tokens=sent + written,
        input_token_details=details,  # type: ignore[typeddict-item]  # a TypedDict, written as a plain one
    )
