"""Entries of the event log as the arguments of `append.lua`, and text as a plain `XADD`."""

import json
from base64 import b64decode, b64encode
from collections.abc import Sequence

from runner_service.states import is_final
from runner_service.storage.event_log import (
    Entry,
    NewCall,
    NewChangeSet,
    NewEvent,
    NewExecution,
    NewOutput,
    NewRun,
    NewState,
    NewValue,
)
from runner_service.storage.journal import CallResult
from runner_service.storage.redis.keys import ExecutionKeys
from runner_service.storage.redis.lua import Argument

_EVENTS = frozenset({"events", "call", "output"})

RUN_ID = ""
"""The field of the journal with the run id."""


class PlainAppends:
    """The commands that append events of one owner without a script, and announce them.

    Redis refuses ids that are not above the newest one. A claim adds an entry with its own token, which is higher: so
    an earlier owner is refused by the id alone. `NOMKSTREAM` refuses what has been deleted.
    """

    replies = 2

    def __init__(self, keys: ExecutionKeys, token: int) -> None:
        key, channel = keys.events.encode(), keys.channel.encode()
        self._token = token
        self._head = b"*8\r\n$4\r\nXADD\r\n$%d\r\n%b\r\n$10\r\nNOMKSTREAM\r\n$" % (len(key), key)
        self._publish = b"\r\n*3\r\n$7\r\nPUBLISH\r\n$%d\r\n%b\r\n$" % (len(channel), channel)

    def pack(self, events: NewEvent) -> bytes:
        """Returns the two commands for events without output, none of which starts a call."""
        position = b"%d-%d" % (self._token, events.sequence)
        count, news = b"%d" % events.count, b"%d:0:%d" % (events.sequence, self._token)
        return b"%b%d\r\n%b\r\n$1\r\nn\r\n$%d\r\n%b\r\n$1\r\nf\r\n$%d\r\n%b%b%d\r\n%b\r\n" % (
            *(self._head, len(position), position, len(count), count),
            *(len(events.frame), events.frame, self._publish, len(news), news),
        )


def plain_events(entries: Sequence[Entry]) -> NewEvent | None:
    """Returns the only one of an execution's entries, if it is of events that need no script."""
    if len(entries) == 1 and isinstance(event := entries[0], NewEvent) and not (event.output or event.tool_call_id):
        return event
    return None


class EncodedEntries:
    """Consecutive entries of one execution. Values of an execution that is new become entries of their own."""

    def __init__(self, keys: ExecutionKeys) -> None:
        self._keys = keys
        self._outputs: dict[str, int] = {}
        self.arguments: list[Argument] = []
        self.others = 0
        """How many are not events."""

    @property
    def keys(self) -> list[str]:
        """The keys that the script touches."""
        keys = self._keys
        return [keys.record, keys.events, keys.journal, keys.values, keys.calls, keys.changes, *self._outputs]

    def add(self, entry: Entry) -> None:
        """Adds an entry."""
        match entry:
            case NewEvent(output=NewOutput() as output):
                key = self._output(output)
                place = (output.tool_call_id, output.stream, key)
                self._add("output", entry.sequence, entry.frame, *place, output.data)
            case NewEvent(tool_call_id=""):
                self._add("events", entry.sequence, entry.count, entry.frame)
            case NewEvent():
                self._add("call", entry.sequence, entry.frame, entry.tool_call_id)
            case NewExecution():
                request = entry.request.SerializeToString() if entry.request else b""
                state = entry.execution.state
                self._add(
                    "new",
                    entry.execution.SerializeToString(),
                    state,
                    entry.fingerprint,
                    request,
                    entry.sealed_request or b"",
                )
                for name, value in entry.values.items():
                    self._add("value", name, value)
            case _:
                self._add_record(entry)

    def _add_record(self, entry: NewOutput | NewState | NewValue | NewRun | NewCall | NewChangeSet) -> None:
        match entry:
            case NewOutput():
                self._add("late", self._output(entry), entry.data)
            case NewState():
                state = entry.execution.state
                self._add("state", state, entry.execution.SerializeToString(), int(is_final(state)))
            case NewValue(value=None):
                self._add("unset", entry.name)
            case NewValue(value=bytes() as value):
                self._add("value", entry.name, value)
            case NewRun():
                self._add("journal", RUN_ID, entry.run_id)
            case NewCall():
                self._add("journal", entry.tool_call_id, encode_result(entry.result))
            case NewChangeSet():
                self._add("change", f"{entry.sequence}:".encode() + entry.data)

    def _output(self, output: NewOutput) -> int:
        key = self._keys.output(output.tool_call_id, output.stream)
        return self._outputs.setdefault(key, len(self.keys) + 1)

    def _add(self, kind: str, *values: Argument) -> None:
        self.arguments += [kind, len(values), *values]
        self.others += kind not in _EVENTS


def encode(keys: ExecutionKeys, entries: Sequence[Entry]) -> EncodedEntries:
    """Encodes entries of one execution."""
    encoded = EncodedEntries(keys)
    for entry in entries:
        encoded.add(entry)
    return encoded


def encode_result(result: CallResult | None) -> bytes:
    """Encodes the result of a call; empty while it has none."""
    if result is None:
        return b""
    parts = (result.message_type, b64encode(result.message).decode(), b64encode(result.event).decode())
    return json.dumps(parts).encode()


def decode_result(stored: bytes) -> CallResult | None:
    """Decodes what `encode_result` returned."""
    if not stored:
        return None
    message_type, message, event = json.loads(stored)
    return CallResult(message_type, b64decode(message), b64decode(event))
