"""Remembers what was computed from a message, since every model call asks again for every message before it."""

import weakref
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from langchain_core.messages import BaseMessage

M = TypeVar("M", bound=BaseMessage)
T = TypeVar("T")


class PerMessage(Generic[M, T]):
    """A function of a message that is computed once while the message lives. Messages are never changed in place."""

    def __init__(self, compute: Callable[[M], T]) -> None:
        """`compute` must not return what refers to the message."""
        self._compute = compute
        self._known: dict[int, tuple[weakref.ref[M], T]] = {}

    def __call__(self, message: M) -> T:
        """Returns the value for this message, known by its identity."""
        key = id(message)
        known = self._known.get(key)
        if known is not None:
            return known[1]
        value = self._compute(message)
        self._known[key] = (weakref.ref(message, lambda _: self._known.pop(key, None)), value)
        return value

    def __len__(self) -> int:
        """How many messages are remembered."""
        return len(self._known)


class Copies:
    """Copies of messages with other fields: the same copy each time, so that what was computed from it is known."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[BaseMessage], BaseMessage]] = {}

    def __call__(self, message: M, **fields: Any) -> M:
        """Returns a copy with these fields, for as long as the message lives."""
        key = id(message)
        known = self._known.get(key)
        if known is not None and all(getattr(known[1], name) == value for name, value in fields.items()):
            return known[1]  # type: ignore[return-value]  # a copy of this message
        copy = message.model_copy(update=fields)
        self._known[key] = (weakref.ref(message, lambda _: self._known.pop(key, None)), copy)
        return copy
