"""The scripted model: plays turns from a file, to run an agent with real tools without a provider.

docs/scripted-model.md describes the file. The conversation alone determines the turn, so executions can share a
script, and an interrupted one continues where it stopped.
"""

import asyncio
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import httpx2
from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatResult
from langchain_core.runnables import Runnable
from langchain_core.runnables.config import ensure_config
from langchain_core.tools import BaseTool
from pydantic import PrivateAttr

from runner_service.models import DEMO_SCRIPT, ModelChoice
from runner_service.models.answer import AnswerBuilder
from runner_service.models.chat_model import StreamingChatModel
from runner_service.models.connections import Connections
from runner_service.models.script import Script, Turn, load_script

_PIECES = re.compile(r"\S+\s*|\s+")
_FIELDS = re.compile(r"\{\{\s*(\w+)\s*\}\}")
_MAX_TRACKED_ATTEMPTS = 1000
_CHARACTERS_PER_TOKEN = 4


class ScriptedError(Exception):
    """A scripted failure, shaped like a provider's: `status_code`, `response.headers`."""

    def __init__(self, message: str, status_code: int | None, headers: dict[str, str]) -> None:
        super().__init__(message)
        self.status_code = status_code
        self.response = httpx2.Response(status_code or 500, headers=headers)


class ScriptedChatModel(StreamingChatModel):
    """Plays a script."""

    script: Script
    _attempts: OrderedDict[tuple[object, int], int] = PrivateAttr(default_factory=OrderedDict)

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
        """Records whether there are tools: a call without tools asks for a summary."""
        del tool_choice, kwargs  # the script decides
        return self.bind(has_tools=bool(tools))

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        """Not supported: turns are streamed."""
        raise NotImplementedError

    async def answer(self, messages: list[BaseMessage], *, stop: list[str] | None = None, **options: Any) -> AIMessage:
        """Streams a turn to the current listener."""
        del stop  # not supported
        turn = self._turn(messages, **options)
        fails = turn.error is not None and self._should_fail(turn, messages)
        answer = AnswerBuilder()
        for count, add_part in enumerate(self._parts(turn, messages, answer)):
            if fails and turn.error and count >= turn.error.after_pieces:
                raise turn.error.exception(ScriptedError)
            # Yields to the event loop even without a delay, as a network client does.
            await asyncio.sleep(turn.delay)
            add_part()
            await answer.deliver()
        await asyncio.sleep(turn.silence)
        return await answer.message("scripted")

    def _turn(self, messages: list[BaseMessage], *, has_tools: bool = False, **_: Any) -> Turn:
        if not has_tools:
            return Turn(text="(A summary of the conversation so far.)")
        turns = self.script.turns_for(_agent_name(), _first_user_message(messages))
        return turns[_answer_count(messages) % len(turns)]

    def _should_fail(self, turn: Turn, messages: list[BaseMessage]) -> bool:
        """Counts the attempts at a turn of a conversation: the only state."""
        asked = next((message.id for message in messages if isinstance(message, HumanMessage)), None)
        key = (asked or id(messages), _answer_count(messages))
        self._attempts[key] = attempts = self._attempts.pop(key, 0) + 1
        if len(self._attempts) > _MAX_TRACKED_ATTEMPTS:
            self._attempts.popitem(last=False)
        return turn.error is not None and attempts <= turn.error.times

    def _parts(self, turn: Turn, messages: list[BaseMessage], answer: AnswerBuilder) -> Iterator[Callable[[], None]]:
        """Yields the steps that add a turn to an answer, one for each chunk of a provider."""
        values = _values(messages)
        reasoning, text = _fill(turn.reasoning, values), _fill(turn.text, values)
        for piece in _PIECES.findall(reasoning):
            yield partial(answer.add_text, "", piece)
        for piece in _PIECES.findall(text):
            yield partial(answer.add_text, piece)
        answers = _answer_count(messages)
        for index, call in enumerate(turn.tool_calls):
            arguments = call.text_of(_fill(call.args, values))
            call_id = call.id or f"call-{answers + 1}-{index + 1}"
            yield partial(answer.begin_call, call_id=call_id, name=call.name, arguments=arguments)
        said = reasoning + text + "".join(call.text_of(call.args) for call in turn.tool_calls)
        usage = _usage(turn, heard=sum(len(message.text) for message in messages), said=len(said))
        answer.stop_reason = turn.stop_reason or ("tool_calls" if turn.tool_calls else "stop")
        yield partial(answer.add_usage, **usage)


def make_model(choice: ModelChoice, connections: Connections) -> StreamingChatModel:  # noqa: ARG001  # as the other providers
    """Creates the model from its script.

    Raises:
        ModelRejectedEnd: the script is invalid; the text says where.
    """
    return ScriptedChatModel(script=load_script(choice.script or DEMO_SCRIPT))


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


def _usage(turn: Turn, *, heard: int, said: int) -> dict[str, int]:
    if turn.usage:
        return turn.usage.model_dump()
    return {
        "input_tokens": heard // _CHARACTERS_PER_TOKEN + 1,
        "output_tokens": said // _CHARACTERS_PER_TOKEN + 1,
        "cached_tokens": 0,
    }
