"""Makes a conversation one that every provider accepts, whatever has happened in it."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from langchain_core.messages import (
    AIMessage,
    AnyMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
)

from runner_service.models.answer import tool_name
from runner_service.models.blocks import Image, plain_blocks
from runner_service.models.incremental_fold import IncrementalFold
from runner_service.models.per_message import Copies

M = TypeVar("M", bound=BaseMessage)

_MAY_FOLLOW = {"system": {"system", "human"}, "human": {"ai"}, "ai": {"human", "ai"}}
"""By the kind of a message: what may come next, results aside."""

LEFT_OUT = "[left out: the provider refused it]"
"""Stands in place of the content of a message that a provider refused."""

_NO_RESULT = "The call did not complete: no result was recorded. It may have been cancelled or interrupted."
_NOTHING = "(nothing)"
_BEFORE = HumanMessage("(The conversation so far was left out.)")
_NOT_ID = re.compile(r"[^A-Za-z0-9_-]")
_MAX_ID_CHARACTERS = 64
_SURROGATES = re.compile("[\ud800-\udfff]")


class Repaired(NamedTuple):
    """A conversation to send, and what had to be changed that its participants would miss."""

    messages: list[Any]
    changes: list[str]


def repair(messages: Sequence[BaseMessage]) -> Repaired:
    """Returns the conversation with every call followed by its one result, and no message empty or misplaced.

    - Results without a call are left out, missing ones are added, each stands directly behind its call; ids are
      unique and names valid in the whole conversation.
    - It begins with the user, whose messages in a row become one. Messages without content are left out or say so.
    - Halves of surrogate pairs, which no request can carry, are replaced.

    Goes through all messages: ask `is_sound` before.
    """
    system = [each for each in messages if isinstance(each, SystemMessage)]
    rest = [_encodable(each) for each in messages if not isinstance(each, SystemMessage)]
    paired, changes = _pair(rest)
    if paired and not isinstance(paired[0], HumanMessage):
        paired.insert(0, _BEFORE)
    return Repaired([*system, *_joined(paired)], changes)


def is_sound(messages: Sequence[BaseMessage]) -> bool:
    """Whether `repair` would change nothing. Looks at the messages only that are new since it was asked before."""
    checked = _checked(messages)
    return checked.is_sound and not checked.waiting


@dataclass
class _Check:
    """What `is_sound` knows of a conversation: `waiting` are the calls without a result, the next one last."""

    is_sound: bool = True
    before: str = "system"
    waiting: list[tuple[str, str]] = field(default_factory=list)
    ids: set[str] = field(default_factory=set)

    def add(self, message: BaseMessage) -> None:
        """Checks the next message."""
        self.is_sound = self.is_sound and self._continues(*_shape(message))

    def _continues(self, kind: str, calls: tuple[tuple[str, str], ...]) -> bool:
        if kind == "tool":
            return bool(self.waiting) and self.waiting.pop() == calls[0]
        if self.waiting or kind not in _MAY_FOLLOW[self.before]:
            return False
        self.before = kind
        self.waiting = list(reversed(calls))
        ids = {call_id for call_id, _ in calls}
        is_new = len(ids) == len(calls) and self.ids.isdisjoint(ids)
        self.ids |= ids
        return is_new


_checked = IncrementalFold(_Check, _Check.add)


def has_images(messages: Iterable[BaseMessage]) -> bool:
    """Whether any message contains an image."""
    return any(isinstance(each, Image) for message in messages for each in _blocks(message))


def without_images(messages: Iterable[M]) -> list[M]:
    """Returns the messages with a description in place of each image."""
    return [_described(each) if has_images([each]) else each for each in messages]


def leave_out_refused(messages: Sequence[BaseMessage]) -> list[BaseMessage]:
    """Returns replacements for the messages that were new in a refused request: all after the model's last one."""
    last = max((index for index, each in enumerate(messages) if isinstance(each, AIMessage)), default=-1)
    return [each.model_copy(update={"content": LEFT_OUT, "artifact": None}) for each in messages[last + 1 :]]


def _pair(messages: Sequence[BaseMessage]) -> tuple[list[BaseMessage], list[str]]:
    paired: list[BaseMessage] = []
    ids: set[str] = set()
    missing = 0
    taken: set[int] = set()
    for index, message in enumerate(messages):
        if isinstance(message, ToolMessage):
            continue
        if not isinstance(message, AIMessage):
            paired.append(message if _blocks(message) else _copy(message, content=_NOTHING))
            continue
        results = _results_behind(messages, index)
        calls: list[ToolCall] = []
        answers: list[BaseMessage] = []
        for call in message.tool_calls:
            name, new_id = tool_name(call["name"]), _unique_id(call["id"] or "", ids)
            calls.append({**call, "name": name, "id": new_id})
            found = next((each for each in results.get(call["id"] or "", ()) if id(each) not in taken), None)
            missing += found is None
            taken |= {id(found)} if found else set()
            answers.append(_answer(found, name, new_id))
        if calls or message.text.strip():
            paired += [_with_calls(message, calls), *answers]
    orphans = sum(isinstance(each, ToolMessage) and id(each) not in taken for each in messages)
    changes = [f"{missing} tool calls had no result, which the model is told"] if missing else []
    return paired, changes + ([f"{orphans} results without a tool call were left out"] if orphans else [])


def _results_behind(messages: Sequence[BaseMessage], index: int) -> dict[str, list[ToolMessage]]:
    """The results between a message of the model and its next one, by the id of their call."""
    results: dict[str, list[ToolMessage]] = {}
    for message in islice(messages, index + 1, None):
        if isinstance(message, AIMessage):
            break
        if isinstance(message, ToolMessage):
            results.setdefault(message.tool_call_id, []).append(message)
    return results


def unanswered(name: str, call_id: str) -> ToolMessage:
    """Returns what stands in place of a result that a call did not have."""
    return ToolMessage(_NO_RESULT, name=name, tool_call_id=call_id, status="error")


# A message is repaired to the same object each time, or nothing could be remembered about it from one call to the next.

_copy = Copies()


def _with_calls(message: AIMessage, calls: list[ToolCall]) -> AIMessage:
    if calls == message.tool_calls and not message.invalid_tool_calls:
        return message
    return _copy(message, tool_calls=calls, invalid_tool_calls=[])


def _answer(found: ToolMessage | None, name: str, call_id: str) -> ToolMessage:
    if found is None:
        return unanswered(name, call_id)
    content: Any = found.content if _blocks(found) else _NOTHING
    if (found.name, found.tool_call_id) == (name, call_id) and content is found.content:
        return found
    return _copy(found, content=content, name=name, tool_call_id=call_id)


def _unique_id(given: str, ids: set[str]) -> str:
    plain = _NOT_ID.sub("_", given)[:_MAX_ID_CHARACTERS] or "call"
    name, number = plain, 1
    while name in ids:
        number += 1
        suffix = f"_{number}"
        name = plain[: _MAX_ID_CHARACTERS - len(suffix)] + suffix
    ids.add(name)
    return name


def _joined(messages: Iterable[BaseMessage]) -> list[AnyMessage]:
    joined: list[Any] = []
    for message in messages:
        last = joined[-1] if joined else None
        if isinstance(message, HumanMessage) and isinstance(last, HumanMessage):
            joined[-1] = _copy(last, content=_together(last.content, message.content))
        else:
            joined.append(message)
    return joined


def _together(one: str | list[Any], other: str | list[Any]) -> str | list[Any]:
    if isinstance(one, str) and isinstance(other, str):
        return f"{one}\n\n{other}"
    parts = [[{"type": "text", "text": each}] if isinstance(each, str) else each for each in (one, other)]
    return [*parts[0], *parts[1]]


def _blocks(message: BaseMessage) -> Sequence[str | Image]:
    if isinstance(message.content, str):
        return [message.content] if message.content.strip() else []
    return plain_blocks(message.content)


def _described(message: M) -> M:
    texts = [each if isinstance(each, str) else f"[{each.description}]" for each in _blocks(message)]
    return _copy(message, content="\n".join(texts))


def _encodable(message: BaseMessage) -> BaseMessage:
    text = message.content
    if not isinstance(text, str) or text.isascii() or not _SURROGATES.search(text):
        return message
    return _copy(message, content=_SURROGATES.sub("\N{REPLACEMENT CHARACTER}", text))


def _shape(message: BaseMessage) -> tuple[str, tuple[tuple[str, str], ...]]:
    """The kind of a message, empty if it needs repair itself, and the ids and names of its calls or of the result's."""
    broken = "", ()
    if _encodable(message) is not message:
        return broken
    if isinstance(message, ToolMessage):
        return ("tool", ((message.tool_call_id, message.name or ""),)) if _blocks(message) else broken
    if not isinstance(message, AIMessage):
        return (message.type, ()) if _blocks(message) or isinstance(message, SystemMessage) else broken
    calls = tuple((call["id"] or "", call["name"]) for call in message.tool_calls)
    is_valid = all(_unique_id(call_id, set()) == call_id and tool_name(name) == name for call_id, name in calls)
    is_empty = not calls and not message.text.strip()
    return broken if message.invalid_tool_calls or is_empty or not is_valid else ("ai", calls)
