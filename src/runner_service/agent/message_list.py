"""The messages in an agent's state, as a list that knows their ids."""

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import Annotated, Any, Required, get_args, get_type_hints

from deepagents.graph import DeepAgentState
from langchain_core.messages import AnyMessage, BaseMessage, RemoveMessage
from langgraph.channels.delta import DeltaChannel

_REQUIRED = get_type_hints(DeepAgentState, include_extras=True)["messages"]
_THEIRS: DeltaChannel[Any] = get_args(_REQUIRED)[0].__metadata__[0]


class MessageList(list[AnyMessage]):
    """Is never changed. Checkpoints contain a plain list."""

    def __init__(self, messages: Iterable[AnyMessage] = (), ids: AbstractSet[str | None] | None = None) -> None:
        super().__init__(messages)
        self.ids = ids or {each.id for each in self}

    def __copy__(self) -> "MessageList":
        return MessageList(self, self.ids)


def add_messages(state: list[AnyMessage] | None, writes: Sequence[Any]) -> list[AnyMessage]:
    """Does what deepagents' reducer does, which indexes the whole list anew, four times in a step."""
    new = [message for write in writes for message in (write if isinstance(write, list) else [write])]
    if isinstance(state, MessageList) and all(map(_is_plain, new)):
        ids = {each.id for each in new}
        if len(ids) == len(new) and ids.isdisjoint(state.ids):
            return MessageList([*state, *new], ids | state.ids)
    return MessageList(_THEIRS.reducer(state, list(writes)))


def _is_plain(message: object) -> bool:
    # Without an id, too: that is how the way to the next node is chosen behind a tool.
    return isinstance(message, BaseMessage) and not isinstance(message, RemoveMessage)


class AgentState(DeepAgentState):
    """The state of deepagents, with this list."""

    messages: Required[
        Annotated[list[AnyMessage], DeltaChannel(add_messages, snapshot_frequency=_THEIRS.snapshot_frequency)]
    ]
