"""Reads events, output and records of executions."""

from collections.abc import Sequence
from typing import NamedTuple

from runner_service.executors.protocol import Stream
from runner_service.storage.event_log import LogError, Page, StoredExecution
from runner_service.storage.frames import skip_frames
from runner_service.storage.owner_history import decode_history
from runner_service.storage.redis.connection import Connection
from runner_service.storage.redis.keys import ExecutionKeys
from runner_service.v1 import agent_runner_pb2 as runner_pb2

_MIN_ENTRIES_PER_READ, _MAX_ENTRIES_PER_READ = 64, 4096
_RECORD = (b"record", b"state", b"last", b"fingerprint", b"request", b"changed", b"sealed", b"owners")


class _Entry(NamedTuple):
    """An entry of the stream. `output` has the key, offset and length of output that its frame ends with."""

    last: int
    events: int
    frame: bytes
    output: tuple[str, int, int] | None

    @property
    def size(self) -> int:
        return len(self.frame) + (self.output[2] if self.output else 0)


class Stored(NamedTuple):
    """A record, with what is not in it."""

    execution: StoredExecution
    changed: float
    """Unix time of the last change of state."""


async def read_records(connection: Connection, execution_ids: Sequence[str]) -> list[Stored | None]:
    """Reads executions; None for those that are not in the log. Raises LogError."""
    commands = [("HMGET", ExecutionKeys(each).record, *_RECORD) for each in execution_ids]
    return [_stored(*reply) for reply in await connection.pipeline(commands)]


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


async def read_page(
    connection: Connection, execution_id: str, after: int, max_bytes: int, *, with_output: bool
) -> Page:
    """Reads events above `after`, about `max_bytes`, but at least one if there is one. Raises LogError."""
    keys = ExecutionKeys(execution_id)
    chosen: list[_Entry] = []
    size, position, count, is_full = 0, after, _MIN_ENTRIES_PER_READ, False
    while not is_full:
        entries = await _read_entries(connection, keys, position, count)
        for entry in entries:
            position = entry.last
            if entry.output and not with_output:
                continue
            if is_full := bool(chosen) and size + entry.size > max_bytes:
                break
            chosen.append(entry)
            size += entry.size
        if len(entries) < count:
            break
        count = min(2 * count, _MAX_ENTRIES_PER_READ)
    return Page(await _join(connection, chosen, after), chosen[-1].last if chosen else after)


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
    size, position = 0, 0
    while entries := await _read_entries(connection, keys, position, _MAX_ENTRIES_PER_READ):
        size += sum(len(entry.frame) for entry in entries)
        position = entries[-1].last
    calls = [each.decode() for each in await connection.call("HKEYS", keys.calls)]
    outputs = [keys.output(call, stream) for call in calls for stream in ("stdout", "stderr")]
    lengths = await connection.pipeline([("STRLEN", each) for each in outputs])
    return size + sum(map(int, lengths))


async def _read_entries(connection: Connection, keys: ExecutionKeys, after: int, count: int) -> list[_Entry]:
    reply = await connection.call("XRANGE", keys.events, f"({after}-0", "+", "COUNT", count)
    return [_entry(keys, name, fields) for name, fields in reply]


def _entry(keys: ExecutionKeys, name: bytes, fields: dict[bytes, bytes]) -> _Entry:
    output = None
    if b"c" in fields:
        key = keys.output(fields[b"c"].decode(), fields[b"s"].decode())
        output = (key, int(fields[b"o"]), int(fields[b"l"]))
    return _Entry(int(name.split(b"-")[0]), int(fields[b"n"]), fields[b"f"], output)


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
