"""An event log that several services share: a second implementation of the Protocols, in memory.

It stands for a store beyond this machine: tokens fence earlier owners off, and commits of one are news to the others.
"""

import time
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from runner_service import states
from runner_service.executors.protocol import Stream
from runner_service.storage.changes import StoredChangeSet
from runner_service.storage.event_log import (
    Entry,
    ExecutionPage,
    NewCall,
    NewChangeSet,
    NewEvent,
    NewExecution,
    NewOutput,
    NewRun,
    NewState,
    NewValue,
    Notify,
    Page,
    Rejection,
    StoredExecution,
)
from runner_service.storage.execution_filter import ExecutionFilter
from runner_service.storage.execution_order import ExecutionOrder
from runner_service.storage.frames import skip_frames
from runner_service.storage.journal import JournaledCall
from runner_service.storage.owner_history import OwnerHistory
from runner_service.storage.ownership import Claim
from runner_service.v1 import agent_runner_pb2 as runner_pb2


@dataclass
class Stored:
    new: NewExecution
    record: runner_pb2.Execution
    changed: float = field(default_factory=time.time)
    events: list[NewEvent] = field(default_factory=list)
    values: dict[str, bytes] = field(default_factory=dict)
    run_id: str | None = None
    calls: dict[str, JournaledCall] = field(default_factory=dict)
    outputs: dict[tuple[str, Stream], bytes] = field(default_factory=dict)
    change_sets: list[StoredChangeSet] = field(default_factory=list)


class SharedStore:
    """What all services see."""

    def __init__(self) -> None:
        self.executions: dict[str, Stored] = {}
        self.tokens: dict[str, int] = defaultdict(int)
        self.owners: dict[str, str] = {}
        self.alive: set[str] = set()
        self.offered: set[str] = set()
        """Executions that were handed over."""
        self.subscribers: dict[str, list[tuple[str, Notify]]] = defaultdict(list)

    def lose_events(self, execution_id: str, above: int) -> None:
        """Forgets the newest events, as a store does that fails over to a replica that lags."""
        stored = self.executions[execution_id]
        stored.events = [event for event in stored.events if event.sequence <= above]


class SharedLog:
    """The `EventLog` of one service."""

    def __init__(self, store: SharedStore, service: str) -> None:
        self._store = store
        self._service = service
        self._sent: dict[str, list[NewEvent]] = defaultdict(list)
        """By execution, the events of this service, which it repeats if the store has lost them."""
        self.fingerprint_key = b"k" * 32

    async def append(self, entries: Sequence[Entry], owners: Mapping[str, int] = {}) -> Mapping[str, Rejection]:
        rejected: dict[str, Rejection] = {}
        for entry in entries:
            name = entry.execution_id
            if owners.get(name, 0) < self._store.tokens[name]:
                rejected[name] = Rejection.FENCED
            elif isinstance(entry, NewExecution):
                self._sent.pop(name, None)
                self._store.executions[name] = Stored(entry, entry.execution, values=dict(entry.values))
            elif name not in self._store.executions:
                rejected[name] = Rejection.DELETED
            elif isinstance(entry, NewEvent) and not self._repeat_lost(entry):
                rejected[name] = Rejection.LOST
            else:
                self._apply(self._store.executions[name], entry)
        for name in {entry.execution_id for entry in entries} - rejected.keys():
            self._notify_others(name)
        return rejected

    def _repeat_lost(self, event: NewEvent) -> bool:
        """Appends again what is missing below an event: the same bytes under the same numbers. False if it is gone."""
        stored, sent = self._store.executions[event.execution_id], self._sent[event.execution_id]
        last = stored.events[-1].sequence if stored.events else 0
        for each in [*(each for each in sent if each.sequence > last), event]:
            if each.sequence - each.count != last:
                return False
            last = each.sequence
            if each is not event:
                self._apply(stored, each)
        sent.append(event)
        return True

    def _apply(self, stored: Stored, entry: Entry) -> None:  # noqa: C901  # one case for each entry
        match entry:
            case NewEvent():
                stored.events.append(entry)
                if entry.tool_call_id:
                    stored.outputs[entry.tool_call_id, "stdout"] = stored.outputs[entry.tool_call_id, "stderr"] = b""
                if entry.output:
                    stored.outputs[entry.output.tool_call_id, entry.output.stream] += entry.output.data
            case NewOutput():
                stored.outputs[entry.tool_call_id, entry.stream] += entry.data
            case NewState():
                stored.record, stored.changed = entry.execution, time.time()
                if states.is_final(entry.execution.state):
                    stored.run_id = None
                    stored.calls.clear()
            case NewValue(value=None):
                stored.values.pop(entry.name, None)
            case NewValue(value=bytes() as value):
                stored.values[entry.name] = value
            case NewRun():
                stored.run_id = entry.run_id
            case NewCall():
                stored.calls[entry.tool_call_id] = JournaledCall(entry.result)
            case NewChangeSet():
                stored.change_sets.append(StoredChangeSet(entry.sequence, entry.data))

    def _notify_others(self, name: str) -> None:
        stored = self._store.executions[name]
        last = stored.events[-1].sequence if stored.events else 0
        for service, notify in list(self._store.subscribers[name]):
            if service != self._service:
                notify(last, states.is_final(stored.record.state), OwnerHistory())

    @contextmanager
    def subscribe(self, execution_id: str, notify: Notify) -> Iterator[None]:
        self._store.subscribers[execution_id].append((self._service, notify))
        try:
            yield
        finally:
            self._store.subscribers[execution_id].remove((self._service, notify))

    async def read(self, execution_id: str, after: int, max_bytes: int, *, with_output: bool = True) -> Page:
        frames, size, last = [], 0, after
        stored = self._store.executions.get(execution_id)
        for event in stored.events if stored else ():
            if event.sequence <= after or (event.output and not with_output):
                continue
            data = skip_frames(event.frame, max(0, after - event.sequence + event.count))
            data += event.output.data if event.output else b""
            if size and size + len(data) > max_bytes:
                break
            frames.append(data)
            size += len(data)
            last = event.sequence
        return Page(b"".join(frames), last)

    async def get(self, execution_id: str) -> StoredExecution | None:
        stored = self._store.executions.get(execution_id)
        return StoredExecution(self._record(stored), stored.new.fingerprint, stored.new.request) if stored else None

    def _record(self, stored: Stored) -> runner_pb2.Execution:
        record = runner_pb2.Execution()
        record.CopyFrom(stored.record)
        record.last_sequence = stored.events[-1].sequence if stored.events else 0
        return record

    async def find_values(self, name: str) -> Mapping[str, bytes]:
        return {key: each.values[name] for key, each in self._store.executions.items() if name in each.values}

    async def remove_values(self, name: str, execution_ids: Collection[str]) -> None:
        for each in self._store.executions.keys() & set(execution_ids):
            self._store.executions[each].values.pop(name, None)

    async def list_executions(
        self, wanted: ExecutionFilter, *, limit: int, before_key: int = 0, order: ExecutionOrder | None = None
    ) -> ExecutionPage:
        found = [
            (key, self._record(each))
            for key, each in enumerate(self._store.executions.values(), 1)
            if (order or not before_key or key < before_key)
            and wanted.session_id in {"", each.record.session_id}
            and (not wanted.states or each.record.state in wanted.states)
            and wanted.matches_record(each.record.SerializeToString())
        ][::-1]
        if order:
            return ExecutionPage(*order.page([each for _, each in found], limit=limit, position=before_key))
        return ExecutionPage([each for _, each in found[:limit]], found[limit - 1][0] if len(found) > limit else 0)

    async def read_output(
        self, execution_id: str, tool_call_id: str, stream: Stream, offset: int, max_bytes: int
    ) -> bytes | None:
        stored = self._store.executions.get(execution_id)
        data = stored.outputs.get((tool_call_id, stream)) if stored else None
        return data[offset : offset + max_bytes] if data is not None else None

    async def unfinished(self) -> Sequence[str]:
        return [key for key, each in self._store.executions.items() if states.is_active(each.record.state)]

    async def mark_interrupted(self, execution_ids: Collection[str]) -> None:
        for name in execution_ids:
            self._store.executions[name].record.state = states.INTERRUPTED

    async def run_id(self, execution_id: str) -> str | None:
        stored = self._store.executions.get(execution_id)
        return stored.run_id if stored else None

    async def find_call(self, execution_id: str, tool_call_id: str) -> JournaledCall | None:
        stored = self._store.executions.get(execution_id)
        return stored.calls.get(tool_call_id) if stored else None

    async def change_sets(self, execution_id: str) -> Sequence[StoredChangeSet]:
        stored = self._store.executions.get(execution_id)
        return list(stored.change_sets) if stored else []

    async def stored_bytes(self, execution_id: str) -> int:
        stored = self._store.executions.get(execution_id)
        if stored is None:
            return 0
        return sum(len(each.frame) for each in stored.events) + sum(map(len, stored.outputs.values()))

    async def delete(self, execution_id: str) -> bool:
        return self._store.executions.pop(execution_id, None) is not None

    async def prune(self, *, max_age: float, max_bytes: int) -> int:
        del max_bytes
        old = [
            key
            for key, each in self._store.executions.items()
            if not states.is_active(each.record.state) and each.changed < time.time() - max_age
        ]
        for key in old:
            del self._store.executions[key]
        return len(old)


class SharedOwnership:
    """The `Ownership` of one service."""

    def __init__(self, store: SharedStore, service: str) -> None:
        self._store = store
        self._service = service
        store.alive.add(service)

    async def claim(self, execution_id: str, *, anew: bool = False, token: int | None = None) -> Claim | None:
        owner = self._store.owners.get(execution_id)
        if owner != self._service:
            if owner in self._store.alive if token is None else token != self._store.tokens[execution_id]:
                return None
            self._store.owners[execution_id] = self._service
            self._store.tokens[execution_id] += 1
        return Claim(execution_id, self._store.tokens[execution_id])

    async def release(
        self, execution_id: str, *, floor: int = 0, has_ended: bool = False, hands_over: bool = False
    ) -> None:
        if self._store.owners.get(execution_id) == self._service:
            del self._store.owners[execution_id]
        if hands_over:
            self._store.offered.add(execution_id)

    async def abandoned(self, execution_ids: Collection[str]) -> Collection[str]:
        return [each for each in execution_ids if self._store.owners.get(each) not in self._store.alive]
