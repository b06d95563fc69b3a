"""What a model says, as it says it: text and reasoning become events, piece by piece."""

from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any
from uuid import UUID

from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, GenerationChunk, LLMResult

from runner_service.agent.tools.scope import RunScope, current_scope, sub_agent_id
from runner_service.agent.usage import count_usage
from runner_service.idle_timeout import IdleTimeout
from runner_service.models.connections import IDLE_TIMEOUT_SECONDS
from runner_service.models.failures import StreamBrokenError
from runner_service.models.text_callbacks import DeliveredChunk
from runner_service.v1 import execution_event_pb2 as event_pb2

if TYPE_CHECKING:
    from langchain_core.messages.tool import ToolCallChunk

MAX_MESSAGE_SIZE = 8 * 1024 * 1024
"""How many characters one message of a model may have, its tool calls included."""

current_streamed_message: ContextVar["StreamedMessage | None"] = ContextVar("streamed", default=None)
"""The message that the current task's model call is saying. None: what is said is not for the events."""


class StreamedMessage:
    """One message of the model, while it is said. `idle` ends the call when nothing comes for too long."""

    def __init__(self, scope: RunScope, idle: IdleTimeout) -> None:
        scope.messages += 1
        self.message_id = f"msg-{scope.messages}"
        self.published = False
        self.size = 0
        self._arguments: dict[object, list[str]] = {}
        self._events = scope.run.events
        self._sub_agent_id = sub_agent_id()
        self._text = scope.run.redactor.text_stream()
        self._reasoning = scope.run.redactor.text_stream()
        self._idle = idle

    async def add_chunk(self, message: BaseMessage) -> None:
        """Takes the next piece. Raises StreamBrokenError when there is no end to them."""
        self.size += self._add_tool_calls(message)
        await self.add_text(*words_of(message))

    async def add_text(self, text: str, reasoning: str) -> None:
        """Takes the next piece of text and of reasoning. Raises as `hear` does."""
        self._idle.arm(IDLE_TIMEOUT_SECONDS)
        self.size += len(text) + len(reasoning)
        if self.size > MAX_MESSAGE_SIZE:
            raise StreamBrokenError(f"the model's message has more than {MAX_MESSAGE_SIZE:,} characters")
        if reasoning:
            self._publish(event_pb2.ReasoningDelta, self._reasoning.feed(reasoning))
        if text:
            self._publish(event_pb2.TextDelta, self._text.feed(text))
        await self._events.wait_for_capacity()

    @property
    def arguments(self) -> list[str]:
        """What was written as the arguments of each tool call, word for word, in order."""
        return ["".join(pieces) for pieces in self._arguments.values()]

    def finish(self, message: AIMessage, stop_reason: str) -> None:
        """Ends the message. If none of it was streamed, it is said now."""
        if not self.size:
            text, reasoning = words_of(message)
            self._publish(event_pb2.ReasoningDelta, self._reasoning.feed(reasoning))
            self._publish(event_pb2.TextDelta, self._text.feed(text))
        self._publish(event_pb2.ReasoningDelta, self._reasoning.flush())
        self._publish(event_pb2.TextDelta, self._text.flush())
        finished = event_pb2.MessageFinished(message_id=self.message_id, stop_reason=stop_reason)
        self._events.publish(finished, sub_agent_id=self._sub_agent_id)

    def discard(self) -> None:
        """Takes back what was said of the message."""
        if self.published:
            discarded = event_pb2.MessageDiscarded(message_id=self.message_id)
            self._events.publish(discarded, sub_agent_id=self._sub_agent_id)

    def _add_tool_calls(self, message: BaseMessage) -> int:
        chunks: list[ToolCallChunk] = getattr(message, "tool_call_chunks", [])
        for chunk in chunks:
            whole = chunk["index"] is None  # then it is not continued by a later piece
            key = len(self._arguments) if whole else f"index {chunk['index']}"
            self._arguments.setdefault(key, []).append(chunk["args"] or "")
        return sum(len(chunk["args"] or "") + 1 for chunk in chunks)

    def _publish(self, kind: type[event_pb2.TextDelta] | type[event_pb2.ReasoningDelta], text: str) -> None:
        if text:
            self.published = True
            self._events.publish(kind(message_id=self.message_id, text=text), sub_agent_id=self._sub_agent_id)


class StreamCallback(AsyncCallbackHandler):
    """Hands each piece to the current `StreamedMessage`. Attached to the model itself, so it costs nothing elsewhere.

    A model call without a `StreamedMessage`, which summarises the conversation, is counted and not shown.
    """

    run_inline = True
    raise_error = True

    async def on_llm_new_token(
        self,
        token: str | list[str | dict[str, Any]],
        *,
        chunk: GenerationChunk | ChatGenerationChunk | None = None,
        **kwargs: Any,
    ) -> None:
        """Called with each piece that the model's client did not tell by itself."""
        del token, kwargs  # the chunk has it all
        if (
            (streamed := current_streamed_message.get())
            and isinstance(chunk, ChatGenerationChunk)
            and type(chunk) is not DeliveredChunk
        ):
            await streamed.add_chunk(chunk.message)

    async def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do."""

    async def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        """Counts a call that nobody else counts."""
        del kwargs
        generation = response.generations[0][0]
        if current_streamed_message.get() is None and isinstance(generation, ChatGeneration):
            count_usage(current_scope.get().run, generation.message)

    # These two make LangChain stream: it looks for them by name, and never calls them here.

    def tap_output_aiter(self, run_id: UUID, output: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """Hands on what it is given."""
        del run_id
        return output

    def tap_output_iter(self, run_id: UUID, output: Iterator[Any]) -> Iterator[Any]:
        """Hands on what it is given."""
        del run_id
        return output


def words_of(message: BaseMessage) -> tuple[str, str]:
    """The text and the reasoning in a message, or in a piece of one."""
    reasoning = message.additional_kwargs.get("reasoning_content") or ""
    if isinstance(message.content, str):
        return message.content, str(reasoning)
    blocks = [block for block in message.content if isinstance(block, dict)]
    text = [block if isinstance(block, str) else str(block.get("text") or "") for block in message.content]
    thoughts = [str(block.get("thinking") or block.get("reasoning") or "") for block in blocks]
    return "".join(text), str(reasoning) + "".join(thoughts)
