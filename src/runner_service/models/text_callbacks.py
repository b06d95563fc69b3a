"""What a model says, told as it comes: past LangChain, which makes several objects of every piece.

A client of ours that reads its provider's stream itself tells each piece to whoever listens, and gives LangChain one
chunk with all that was told. Clients that do not, leave it to LangChain's callbacks.
"""

from collections.abc import Awaitable, Callable
from contextvars import ContextVar

from langchain_core.outputs import ChatGenerationChunk

TextListener = Callable[[str, str], Awaitable[None]]
"""Takes the next piece of text and of reasoning; either may be empty. What it raises ends the model's call."""

current_text_listener: ContextVar[TextListener | None] = ContextVar("listener", default=None)
"""Who listens to the current task's model call. None: nobody wants to hear it as it comes."""


class DeliveredChunk(ChatGenerationChunk):
    """A chunk of nothing but words, which were told already."""


class TextDelivery:
    """Tells the current listener what a model says, and remembers it. Pieces taken together are told as one."""

    def __init__(self) -> None:
        self._listener = current_text_listener.get()
        self._text, self._reasoning = "", ""
        self._told: list[tuple[str, str]] = []

    def take(self, text: str, reasoning: str) -> bool:
        """Takes the next piece; False when it would be told out of order unless the others are told before."""
        if reasoning and self._text:
            return False
        self._text += text
        self._reasoning += reasoning
        return True

    async def tell(self) -> None:
        """Tells what was taken."""
        text, reasoning = self._text, self._reasoning
        if text or reasoning:
            self._text = self._reasoning = ""
            self._told.append((text, reasoning))
            if self._listener:
                await self._listener(text, reasoning)

    def told(self) -> tuple[str, str] | None:
        """Returns all text and reasoning since the last time, and forgets it; None when nothing was told."""
        if not self._told:
            return None
        text, reasoning = map("".join, zip(*self._told, strict=True))
        self._told.clear()
        return text, reasoning
