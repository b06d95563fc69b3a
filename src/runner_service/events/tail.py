"""What was committed a moment ago, kept in memory for those who watch."""

from bisect import bisect_right
from operator import attrgetter
from typing import NamedTuple

from runner_service.storage.event_log import NewEvent, Page
from runner_service.storage.frames import without_first

_KEPT_BYTES = 64 * 1024


class _Segment(NamedTuple):
    """Events that follow each other, as they are delivered."""

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
        """How many bytes are kept."""

    def add(self, events: NewEvent) -> None:
        """Takes what follows the last ones."""
        data = events.frame + events.output.data if events.output else events.frame
        self._segments.append(_Segment(events.sequence - events.count + 1, events.sequence, data))
        self.size += len(data)

    def page(self, after: int, max_bytes: int) -> Page | None:
        """The events above `after`, which must exist: about `max_bytes`; None if the first of them is not here."""
        index = self._index_of(after + 1)
        if index < 0:
            return None
        first = self._segments[index]
        pieces = [without_first(first.data, after + 1 - first.first)]
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
        """Where the segment is that holds `sequence`; -1 when it is not here any more."""
        if self._segments and self._segments[-1].first <= sequence:  # whoever keeps up wants the last one
            return len(self._segments) - 1
        return bisect_right(self._segments, sequence, key=_by_first) - 1

    def trim(self, seen: int) -> None:
        """Lets go what everybody has seen, up to `seen`, and more if need be to stay within the bound."""
        if self.size <= _KEPT_BYTES:
            return
        count = 0
        for segment in self._segments:
            if segment.last > seen and self.size <= self._max_bytes:
                break
            self.size -= len(segment.data)
            count += 1
        del self._segments[:count]

    def clear(self) -> None:
        """Lets go everything."""
        self._segments.clear()
        self.size = 0
