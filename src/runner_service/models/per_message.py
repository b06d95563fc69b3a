"""Remembers what was computed from a message, since every model call asks again for every message before it."""

import weakref
from collections.abc import Callable
from typing import Generic, TypeVar

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
