"""Takes langsmith out of the calls of agents. Nothing is traced to it, and asking whether costs a sixth of a step."""

from collections.abc import Callable
from typing import Any, TypeVar

from langchain.agents import factory

F = TypeVar("F", bound=Callable[..., Any])


def turn_langsmith_off() -> None:
    """Makes LangChain build agents whose middleware is called directly."""
    factory.traceable = _not_traced  # type: ignore[attr-defined, assignment]  # a name that it imports


def _not_traced(**_: Any) -> Callable[[F], F]:
    return lambda function: function
