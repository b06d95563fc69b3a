"""In-memory cache of the newest committed events of an execution, for its watchers."""

from bisect import bisect_right
from operator import attrgetter
from typing import NamedTuple

from runner_service.storage.event_log import NewEvent, Page
from runner_service.storage.frames import skip_frames

_TRIM_THRESHOLD_BYTES = 64 * 1024


class _Segment(NamedTuple):
    """Consecutive events, as delivered."""

    first: int
    last: int
    data: bytes


_by_first = attrgetter("first")


class Tail:
    """The newest events of one execution, at most about `max_bytes`."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._segments: list[_Segment] = []
        self.size = 0
        """Bytes held."""

    def add(self, events: NewEvent) -> None:
        """Adds the events that follow the last ones."""
        data = events.frame + events.output.data if events.output else events.frame
        self._segments.append(_Segment(events.sequence - events.count + 1, events.sequence, data))
        self.size += len(data)

    def page(self, after: int, max_bytes: int) -> Page | None:
        """Returns about `max_bytes` of events above `after`, which must exist; None if the first is not cached."""
        index = self._index_of(after + 1)
        if index < 0:
            return None
        first = self._segments[index]
        pieces = [skip_frames(first.data, after + 1 - first.first)]
        size, last = len(pieces[0]), first.last
        for position in range(index + 1, len(self._segments)):
            segment = self._segments[position]
            size += len(segment.data)
            if size > max_bytes:
                break
            pieces.append(segment.data)
            last = segment.last
        return Page(b"".join(pieces), last)

    def _index_of(self, sequence: int) -> int:
        """Returns the index of the segment with `sequence`; -1 when it is no longer cached."""
        if self._segments and self._segments[-1].first <= sequence:  # a watcher that keeps up reads the last one
            return len(self._segments) - 1
        return bisect_right(self._segments, sequence, key=_by_first) - 1

    def trim(self, seen: int) -> None:
        """Drops what all watchers have seen, up to `seen`, and more if the bound requires it."""
        if self.size <= _TRIM_THRESHOLD_BYTES:
            return
        count = 0
        for segment in self._segments:
            if segment.last > seen and self.size <= self._max_bytes:
                break
            self.size -= len(segment.data)
            count += 1
        del self._segments[:count]

    def clear(self) -> None:
        """Drops everything."""
        self._segments.clear()
        self.size = 0
