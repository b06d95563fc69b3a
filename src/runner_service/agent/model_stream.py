"""Publishes a model's message while it is streamed."""

import asyncio
from typing import Any

from langchain_core.callbacks import AsyncCallbackHandler
from langchain_core.outputs import ChatGeneration, LLMResult

from runner_service.agent.tools.scope import RunScope, current_scope, sub_agent_id
from runner_service.agent.usage import count_usage
from runner_service.idle_timeout import IdleTimeout
from runner_service.models.answer import current_text_listener
from runner_service.storage.frames import TextKind
from runner_service.v1 import execution_event_pb2 as event_pb2

_PIECE_CHARACTERS = 32 * 1024  # redacted in less than a millisecond, unless it is full of what looks like secrets


class StreamedMessage:
    """Events of one message of the model. `idle` ends the call when nothing comes for too long."""

    def __init__(self, scope: RunScope, idle: IdleTimeout) -> None:
        scope.messages += 1
        self.message_id = f"msg-{scope.messages}"
        self._events = scope.run.events
        self._sub_agent_id = sub_agent_id()
        self._text = _StreamedText(scope, event_pb2.TextDelta, self.message_id)
        self._reasoning = _StreamedText(scope, event_pb2.ReasoningDelta, self.message_id)
        self._idle = idle
        self._idle_timeout_seconds = scope.run.model.idle_timeout

    async def add_text(self, text: str, reasoning: str) -> None:
        """Publishes the next text and reasoning. Without either it only restarts the idle timeout."""
        self._idle.arm(self._idle_timeout_seconds)
        await self._add(self._reasoning, reasoning)
        await self._add(self._text, text)
        await self._events.wait_for_capacity()

    async def _add(self, streamed: "_StreamedText", text: str) -> None:
        for start in range(0, len(text), _PIECE_CHARACTERS):
            if start:
                await self._events.wait_for_capacity()
                await asyncio.sleep(0)
            streamed.add(text[start : start + _PIECE_CHARACTERS])

    @property
    def published(self) -> bool:
        """Whether any of its text was published."""
        return self._text.published or self._reasoning.published

    def finish(self, stop_reason: str) -> None:
        """Publishes the end of the message."""
        self._reasoning.flush()
        self._text.flush()
        finished = event_pb2.MessageFinished(message_id=self.message_id, stop_reason=stop_reason)
        self._events.publish(finished, sub_agent_id=self._sub_agent_id)

    def discard(self) -> None:
        """Publishes that the message is discarded, if any of it was published."""
        if self.published:
            discarded = event_pb2.MessageDiscarded(message_id=self.message_id)
            self._events.publish(discarded, sub_agent_id=self._sub_agent_id)


class _StreamedText:
    """The text of a message, or its reasoning: redacted and published in pieces."""

    def __init__(self, scope: RunScope, kind: TextKind, message_id: str) -> None:
        self.published = False
        self._events = scope.run.events
        self._redactor = scope.run.redactor.text_stream()
        self._framer = self._events.text_framer(kind, message_id, sub_agent_id=sub_agent_id())

    def add(self, text: str) -> None:
        """Publishes the next piece, but for what may begin a secret."""
        self._publish(self._redactor.feed(text))

    def flush(self) -> None:
        """Publishes what was held back."""
        self._publish(self._redactor.flush())

    def _publish(self, text: str) -> None:
        if text:
            self.published = True
            self._events.publish_text(self._framer, text)


class SummaryUsage(AsyncCallbackHandler):
    """Counts the usage of model calls that summarise the conversation; `ModelCalls` counts all others."""

    run_inline = True
    raise_error = True

    async def on_chat_model_start(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to do."""

    async def on_llm_end(self, response: LLMResult, **kwargs: Any) -> None:
        """Counts a call without a listener."""
        del kwargs
        generation = response.generations[0][0]
        if current_text_listener.get() is None and isinstance(generation, ChatGeneration):
            scope = current_scope.get()
            count_usage(scope.run, generation.message, scope.run.model.name)
