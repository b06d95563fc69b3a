"""Reads events, output and records of executions."""

from collections.abc import Sequence
from typing import NamedTuple

from runner_service.executors.protocol import Stream
from runner_service.states import is_final
from runner_service.storage.event_log import LogError, Page, StoredExecution
from runner_service.storage.frames import skip_frames
from runner_service.storage.owner_history import decode_history
from runner_service.storage.redis.appender import Position
from runner_service.storage.redis.connection import Connection
from runner_service.storage.redis.keys import ExecutionKeys
from runner_service.storage.redis.nodes import NodeEntryReads
from runner_service.v1 import agent_runner_pb2 as runner_pb2

_MIN_ENTRIES_PER_READ, _MAX_ENTRIES_PER_READ = 64, 4096
_MAX_REMEMBERED = 10_000
_RECORD = (b"record", b"state", b"last", b"fingerprint", b"request", b"changed", b"sealed", b"owners")


class _Entry(NamedTuple):
    """An entry of the stream. `output` has the key, offset and length of output that its frame ends with."""

    token: int
    last: int
    events: int
    frame: bytes
    output: tuple[str, int, int] | None

    @property
    def size(self) -> int:
        return len(self.frame) + (self.output[2] if self.output else 0)


class _Place(NamedTuple):
    """A place in the stream: the token of an owner, and a sequence."""

    token: int
    last: int


class Stored(NamedTuple):
    """A record, with what is not in it."""

    execution: StoredExecution
    changed: float
    """Unix time of the last change of state."""


async def read_records(connection: Connection, execution_ids: Sequence[str]) -> list[Stored | None]:
    """Reads executions; None for those that are not in the log. Raises LogError."""
    keys = [ExecutionKeys(each) for each in execution_ids]
    replies = await connection.pipeline([("HMGET", each.record, *_RECORD) for each in keys])
    records = [_stored(*reply) for reply in replies]
    growing = [at for at, each in enumerate(records) if each and not is_final(each.execution.execution.state)]
    newest = await connection.pipeline([_newest(keys[at]) for at in growing])
    for at, entries in zip(growing, newest, strict=True):
        if (stored := records[at]) and entries:
            stored.execution.execution.last_sequence = _place_of(entries[0][0]).last
    return records


async def read_position(connection: Connection, keys: ExecutionKeys) -> Position:
    """Reads how far the owner of an execution has come. Raises LogError."""
    others, entries = await connection.pipeline([("HGET", keys.record, "n"), _newest(keys)])
    return Position(int(others or 0), _place_of(entries[0][0]).last if entries else 0)


def _newest(keys: ExecutionKeys) -> tuple[str, ...]:
    return ("XREVRANGE", keys.events, "+", "-", "COUNT", "1")


def _stored(
    record: bytes | None,
    state: bytes | None,
    last: bytes | None,
    fingerprint: bytes,
    request: bytes | None,
    changed: bytes | None,
    sealed: bytes | None,
    owners: bytes | None,
) -> Stored | None:
    if record is None:
        return None
    execution = runner_pb2.Execution.FromString(record)
    execution.state = int(state or 0)  # type: ignore[assignment]  # an enum is an int
    execution.last_sequence = int(last or 0)
    kept = runner_pb2.ExecuteAgentRequest.FromString(request) if request is not None else None
    return Stored(StoredExecution(execution, fingerprint, kept, sealed, decode_history(owners)), float(changed or 0))


class PageReader:
    """Reads pages of events, and remembers which owner wrote the newest that was read of each execution."""

    def __init__(self, connection: Connection, entries: NodeEntryReads) -> None:
        self._connection = connection
        self._entries = entries
        self._read: dict[str, _Place] = {}

    async def read(self, execution_id: str, after: int, max_bytes: int, *, with_output: bool) -> Page:
        """Reads events above `after`, about `max_bytes`, but at least one if there is one. Raises LogError."""
        keys = ExecutionKeys(execution_id)
        chosen: list[_Entry] = []
        size, count, is_full = 0, _MIN_ENTRIES_PER_READ, False
        place = await self._place(keys, execution_id, after)
        while not is_full:
            found = await self._entries.read(keys.events, f"{place.token}-{place.last}", count)
            entries = [_entry(keys, name, dict(zip(fields[::2], fields[1::2], strict=True))) for name, fields in found]
            for entry in entries:
                place = _Place(entry.token, entry.last)
                if entry.last <= after or not entry.events or (entry.output and not with_output):
                    continue
                if is_full := bool(chosen) and size + entry.size > max_bytes:
                    break
                chosen.append(entry)
                size += entry.size
            if len(entries) < count:
                break
            count = min(2 * count, _MAX_ENTRIES_PER_READ)
        if chosen:
            self._remember(execution_id, _Place(chosen[-1].token, chosen[-1].last))
        return Page(await _join(self._connection, chosen, after), chosen[-1].last if chosen else after)

    async def _place(self, keys: ExecutionKeys, execution_id: str, after: int) -> _Place:
        """Returns where in the stream to read what follows `after`, or a place before that."""
        read = self._read.get(execution_id)
        if read is None or read.last > after:
            history = decode_history(await self._connection.call("HGET", keys.record, "owners"))
            token = max((start.token for start in history if start.after <= after), default=0)
        else:
            token = read.token
        return _Place(token, after)

    def _remember(self, execution_id: str, newest: _Place) -> None:
        if len(self._read) >= _MAX_REMEMBERED:
            self._read.clear()
        self._read[execution_id] = newest


async def read_output(
    connection: Connection, execution_id: str, tool_call_id: str, stream: Stream, offset: int, max_bytes: int
) -> bytes | None:
    """Reads output of a command; None when there is no such call. Raises LogError."""
    keys = ExecutionKeys(execution_id)
    is_known, data = await connection.pipeline([
        ("HEXISTS", keys.calls, tool_call_id),
        ("GETRANGE", keys.output(tool_call_id, stream), offset, offset + max_bytes - 1),
    ])  # fmt: skip
    return bytes(data) if is_known else None


async def read_size(connection: Connection, execution_id: str) -> int:
    """Returns the size of an execution's events and output in bytes. Raises LogError."""
    keys = ExecutionKeys(execution_id)
    size, place = 0, _Place(0, 0)
    while entries := await _read_entries(connection, keys, place, _MAX_ENTRIES_PER_READ):
        size += sum(len(entry.frame) for entry in entries)
        place = _Place(entries[-1].token, entries[-1].last)
    calls = [each.decode() for each in await connection.call("HKEYS", keys.calls)]
    outputs = [keys.output(call, stream) for call in calls for stream in ("stdout", "stderr")]
    lengths = await connection.pipeline([("STRLEN", each) for each in outputs])
    return size + sum(map(int, lengths))


async def _read_entries(connection: Connection, keys: ExecutionKeys, after: _Place, count: int) -> list[_Entry]:
    position = f"({after.token}-{after.last}"
    reply = await connection.call("XRANGE", keys.events, position, "+", "COUNT", count)
    return [_entry(keys, name, fields) for name, fields in reply]


def _entry(keys: ExecutionKeys, name: bytes, fields: dict[bytes, bytes]) -> _Entry:
    output = None
    if b"c" in fields:
        key = keys.output(fields[b"c"].decode(), fields[b"s"].decode())
        output = (key, int(fields[b"o"]), int(fields[b"l"]))
    return _Entry(*_place_of(name), int(fields[b"n"]), fields.get(b"f", b""), output)


def _place_of(name: bytes) -> _Place:
    token, _, last = name.partition(b"-")
    return _Place(int(token), int(last))


async def _join(connection: Connection, entries: Sequence[_Entry], after: int) -> bytes:
    ranges = [entry.output for entry in entries if entry.output]
    replies = iter(await connection.pipeline([("GETRANGE", key, at, at + size - 1) for key, at, size in ranges]))
    frames: list[bytes] = []
    for entry in entries:
        frames.append(skip_frames(entry.frame, max(0, after - entry.last + entry.events)))
        if entry.output:
            data = next(replies)
            if len(data) != entry.output[2]:
                raise LogError(f"{entry.output[0]} is shorter than its events")
            frames.append(data)
    return b"".join(frames)
