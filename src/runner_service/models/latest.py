"""Remembers the last result of a function, for calls that mostly have the same arguments."""

from collections.abc import Callable
from typing import Any, Generic, TypeVar

V = TypeVar("V")


class Latest(Generic[V]):
    """Calls `function` only for other arguments than the last ones. What is in them is not changed meanwhile."""

    def __init__(self, function: Callable[..., V]) -> None:
        self._function = function
        self._known: tuple[dict[str, Any], V] | None = None

    def __call__(self, **arguments: Any) -> V:
        """Returns the result. Raises as the function does."""
        if self._known is None or self._known[0] != arguments:
            self._known = arguments, self._function(**arguments)
        return self._known[1]
