"""Appends to executions in Redis, each by its owner, and repeats what a failover has lost.

One script appends what one execution has in a batch, so that log, journal and record agree. Text, which is nearly
everything, needs no script: a plain `XADD` does, as long as nothing is in doubt.
"""

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import hiredis

from runner_service.storage.event_log import Entry, NewEvent, NewOutput, Rejection
from runner_service.storage.redis.appending import EncodedEntries, PlainAppends, encode, plain_events
from runner_service.storage.redis.hot_path import HotConnection
from runner_service.storage.redis.keys import ExecutionKeys
from runner_service.storage.redis.lua import ScriptCall

_MAX_RECENT_BYTES = 2 * 1024 * 1024
_RECENT_SECONDS = 30.0
_SURE_SECONDS = 2.0
"""For how long Redis is taken to be the same primary on one connection. It may have become a replica and then the
primary again, without what only it had."""

_NOT_ABOVE = "ERR The ID specified in XADD is equal or smaller"


class Position(NamedTuple):
    """How far an owner has come: entries other than events, and the sequence of its newest event."""

    others: int
    last: int


class _Recent(NamedTuple):
    at: float
    before: Position
    after: Position
    entries: Sequence[Entry]
    size: int


class Sent:
    """What an owner has appended, and the recent part of it, which a failover of Redis may lose."""

    def __init__(self, execution_id: str, keys: ExecutionKeys, token: int, position: Position) -> None:
        self.execution_id = execution_id
        self.keys = keys
        self.token = token
        self.plain = PlainAppends(keys, token)
        self.position = position
        self._connection = 0
        self._recent: deque[_Recent] = deque()
        self._recent_bytes = 0

    def is_sure(self, connection: int, now: float) -> bool:
        """Tells whether Redis certainly has everything up to the position, as far as this connection can tell."""
        return self._connection == connection and now - self._recent[-1].at < _SURE_SECONDS

    def doubt(self) -> None:
        """Makes a script look before anything else is appended."""
        self._connection = 0

    def add_events(self, entries: Sequence[Entry], events: NewEvent, now: float) -> None:
        """Counts events that have been appended, the only ones of `entries`."""
        self._add(now, Position(self.position.others, events.sequence), entries, len(events.frame))

    def add(self, entries: Sequence[Entry], others: int, connection: int) -> None:
        """Counts entries that a script has appended on a connection."""
        last = next((each.sequence for each in reversed(entries) if isinstance(each, NewEvent)), self.position.last)
        after = Position(self.position.others + others, last)
        self._add(time.monotonic(), after, entries, sum(map(_size, entries)))
        self._connection = connection

    def since(self, stored: Position) -> Sequence[_Recent] | None:
        """Returns what follows a position; None when some of it is not kept any more."""
        wanted = [each for each in self._recent if each.after.others > stored.others or each.after.last > stored.last]
        if not wanted or wanted[0].before.others > stored.others or wanted[0].before.last > stored.last:
            return None
        return wanted

    def _add(self, now: float, after: Position, entries: Sequence[Entry], size: int) -> None:
        recent = self._recent
        recent.append(_Recent(now, self.position, after, entries, size))
        self.position = after
        self._recent_bytes += size
        while len(recent) > 1 and (self._recent_bytes > _MAX_RECENT_BYTES or recent[0].at < now - _RECENT_SECONDS):
            self._recent_bytes -= recent.popleft().size


class Append(NamedTuple):
    """Entries of one execution, to be appended in order."""

    sent: Sent
    entries: Sequence[Entry]


class _PlainAppend(NamedTuple):
    append: Append
    events: NewEvent


class Appender:
    """Appends for the executions of this replica. One caller at a time."""

    def __init__(self, hot: HotConnection) -> None:
        self._hot = hot

    async def close(self) -> None:
        """Closes the connection."""
        await self._hot.close()

    async def append(self, appends: Sequence[Append], *, min_replicas: int = 0) -> Mapping[str, Rejection]:
        """Appends in one round trip, if nothing is in doubt. Returns the refused executions. Raises LogError.

        After an error some may have their entries: repeating is safe.
        """
        connection, now = await self._hot.connect(), time.monotonic()
        plain: list[_PlainAppend] = []
        scripted: list[Append] = []
        for each in appends:
            events = plain_events(each.entries)
            if events and each.sent.is_sure(connection, now):
                plain.append(_PlainAppend(each, events))
            else:
                scripted.append(each)
        packed = [append.sent.plain.pack(events) for append, events in plain]
        encoded = [encode(each.sent.keys, each.entries) for each in scripted]
        calls = [_call(each.sent, each.sent.position, entries) for each, entries in zip(scripted, encoded, strict=True)]
        replies, results = await self._hot.run(
            packed, PlainAppends.replies * len(packed), "append", calls, min_replicas=min_replicas
        )
        doubtful = self._settle_plain(plain, replies, now)
        rejected: dict[str, Rejection] = {}
        for each, entries, result in zip(scripted, encoded, results, strict=True):
            if rejection := await self._settle(each, entries, result, connection, min_replicas):
                rejected[each.sent.execution_id] = rejection
        return {**rejected, **await self.append(doubtful)} if doubtful else rejected

    def _settle_plain(self, plain: Sequence[_PlainAppend], replies: Sequence[Any], now: float) -> Sequence[Append]:
        """Returns those that Redis has refused: the script will tell why."""
        doubtful: list[Append] = []
        for at, (append, events) in enumerate(plain):
            added, announced = replies[2 * at : 2 * at + 2]
            for reply in (added, announced):
                if isinstance(reply, hiredis.ReplyError) and not str(reply).startswith(_NOT_ABOVE):
                    raise self._hot.refusal(reply)
            if isinstance(added, bytes):
                append.sent.add_events(append.entries, events, now)
            else:
                append.sent.doubt()
                doubtful.append(append)
        return doubtful

    async def _settle(
        self, append: Append, encoded: EncodedEntries, result: Sequence[Any], connection: int, min_replicas: int
    ) -> Rejection | None:
        match result:
            case [b"FENCED"]:
                return Rejection.FENCED
            case [b"DELETED"]:
                return Rejection.DELETED
            case [b"WENT_BACK", int(others), int(last)]:
                return await self._repeat(append, encoded, Position(others, last), min_replicas)
        append.sent.add(append.entries, encoded.others, connection)
        return None

    async def _repeat(
        self, append: Append, encoded: EncodedEntries, stored: Position, min_replicas: int
    ) -> Rejection | None:
        """Appends again what a failover of Redis has lost: the same bytes under the same numbers."""
        sent = append.sent
        lost = sent.since(stored)
        if lost is None:
            return Rejection.LOST
        again = [_call(sent, each.before, encode(sent.keys, each.entries)) for each in lost]
        connection = 0
        for call in [*again, _call(sent, sent.position, encoded)]:
            connection = await self._hot.connect()
            _, (result,) = await self._hot.run((), 0, "append", [call], min_replicas=min_replicas)
            if result[0] != b"OK":
                return Rejection.FENCED
        sent.add(append.entries, encoded.others, connection)
        return None


def _call(sent: Sent, before: Position, encoded: EncodedEntries) -> ScriptCall:
    head = (sent.token, before.others, before.last, time.time(), sent.keys.channel)
    return encoded.keys, [*head, *encoded.arguments]


def _size(entry: Entry) -> int:
    match entry:
        case NewEvent():
            return len(entry.frame) + (len(entry.output.data) if entry.output else 0)
        case NewOutput():
            return len(entry.data)
    return 0
