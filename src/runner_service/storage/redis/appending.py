"""Entries of the event log as the arguments of `append.lua`."""

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
from runner_service.storage.redis.connection import Argument
from runner_service.storage.redis.keys import ExecutionKeys

RUN_ID = ""
"""The field of the journal with the run id."""


class EncodedEntries:
    """Consecutive entries of one execution. Values of an execution that is new become entries of their own."""

    def __init__(self, keys: ExecutionKeys) -> None:
        self._keys = keys
        self._outputs: dict[str, int] = {}
        self.arguments: list[Argument] = []
        self.count = 0
        self.size = 0
        """Approximate bytes."""

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
        self.count += 1
        for value in values:
            if isinstance(value, bytes):
                self.size += len(value)


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
