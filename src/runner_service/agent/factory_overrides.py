"""Takes out of every model call of LangChain's agents what has nothing to do here."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from langchain.agents import factory
from langchain.agents.middleware import ModelRequest
from langchain_core.messages import AnyMessage

F = TypeVar("F", bound=Callable[..., Any])


def override_factory() -> None:
    """Makes LangChain build agents that call their middleware directly, with the messages as they are.

    Nothing is traced to LangSmith, and asking whether takes a sixth of a step. No message has invalid calls
    (`messages.normalize_message`; those of earlier versions are answered by `history.repair`), and looking for them
    goes through all messages twice. The constructor of a request warns of each of its assignments, and suppresses that:
    a fiftieth of an execution; from 1.5 on it no longer does.
    """
    factory.traceable = _not_traced  # type: ignore[attr-defined, assignment]  # a name that it imports
    factory._patch_invalid_tool_calls = _unchanged  # type: ignore[assignment]  # noqa: SLF001  # see the seam's test
    ModelRequest.__setattr__ = object.__setattr__  # type: ignore[method-assign, assignment]


def _not_traced(**_: Any) -> Callable[[F], F]:
    return lambda function: function


def _unchanged(messages: Sequence[AnyMessage]) -> Sequence[AnyMessage]:
    return messages
