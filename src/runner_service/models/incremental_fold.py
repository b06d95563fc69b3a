"""Computes a value over a whole conversation by looking at its new messages only."""

import weakref
from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

from langchain_core.messages import BaseMessage

S = TypeVar("S")


class _Folded(NamedTuple, Generic[S]):
    """What is known of a conversation. Its last message is not held, since the entry goes with it."""

    before: list[BaseMessage]
    last: "weakref.ref[BaseMessage]"
    state: S


class IncrementalFold(Generic[S]):
    """Adds each message to a state, and goes on from the longest conversation that a later one begins with.

    Every model call asks about all messages before it, most of which were there at the last one, the same objects:
    messages are never changed in place.
    """

    def __init__(self, begin: Callable[[], S], add: Callable[[S, BaseMessage], None]) -> None:
        """`begin` makes the state of no message; `add` changes a state, which must not refer to the message."""
        self._begin = begin
        self._add = add
        self._folded: dict[int, _Folded[S]] = {}

    def __call__(self, messages: Sequence[BaseMessage]) -> S:
        """Returns the state after the last message. The next call may change it: copy what is kept."""
        start, state = self._take(messages)
        for message in messages[start:]:
            self._add(state, message)
        if messages:
            key = id(messages[-1])
            last = weakref.ref(messages[-1], lambda _: self._folded.pop(key, None))
            self._folded[key] = _Folded(list(messages[:-1]), last, state)
        return state

    def __len__(self) -> int:
        """How many conversations are known."""
        return len(self._folded)

    def _take(self, messages: Sequence[BaseMessage]) -> tuple[int, S]:
        """Takes out the longest known beginning: its length and its state."""
        for end in range(len(messages), 0, -1):
            known = self._folded.get(id(messages[end - 1]))
            if known and known.before == list(messages[: end - 1]):  # of the same objects, in a few nanoseconds each
                del self._folded[id(messages[end - 1])]
                return end, known.state
        return 0, self._begin()
