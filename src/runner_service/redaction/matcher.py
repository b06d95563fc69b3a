"""The matcher: finds all forms of all secrets in bytes and text, by Aho-Corasick.

A fast search for 8 bytes of each pattern almost always finds nothing: by SIMD for up to some hundred patterns, else by
an automaton. Where it finds something, a second one looks for the first 32 bytes of each pattern, and what that finds
is compared with the whole.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol

from ahocorasick_rs import BytesAhoCorasick, Implementation, MatchKind

from runner_service.redaction.forms import MIN_SECRET_BYTES, forms_of

MAX_FORMS = 30_000
"""How many forms are looked for; further ones are dropped and counted."""

_MAX_WHOLE_BYTES = 256  # a longer form is found by each of its pieces, and from there as far as it goes
_PIECE_BYTES = 64
_PIECE_INTERVAL_BYTES = 1024
_SEED_BYTES = 32
_ANCHOR_BYTES = 8
_PREFIX_BYTES = 4
_PATTERNS_PER_SEARCH = 1000  # takes some milliseconds to build, in which no other thread runs
_PATTERNS_PER_SIMD_SEARCH = 64  # the library takes no more
_MAX_FOR_SIMD = 384  # six searches at more than 5 GB/s each; one automaton reaches 500 MB/s
_CONTINUATION = range(0x80, 0xC0)  # bytes within a character of UTF-8
_MAX_FOR_DFA = 4000
_DFA, _NFA = Implementation.DFA, Implementation.ContiguousNFA
_WINDOW_BYTES = 512
_LAST_BYTES = 2 * _PIECE_INTERVAL_BYTES
_COMPARED_BYTES = _PIECE_INTERVAL_BYTES + _PIECE_BYTES  # of a long form, at first: behind them is its next piece
_HIT_WORK, _COMPARISON_WORK, _LIKELY_WORK, _PLACE_WORK = 8, 60, 20, 3  # in tenths of microseconds
_MAX_WORK = 100_000  # in 64 KiB
_FIRST_STEP_BYTES = 64


class Place(NamedTuple):
    """An offset in a long form."""

    form: bytes
    offset: int


class Match(NamedTuple):
    """A part of a text; `continued` are the forms that may go on behind the end of the text, and where.

    A blanket one may be without a secret.
    """

    start: int
    end: int
    continued: Sequence[Place] = ()
    is_blanket: bool = False


class PatternSource(Protocol):
    """Has the patterns that are to be looked for now."""

    @property
    def patterns(self) -> "Patterns":
        """The patterns."""


class Patterns:
    """All forms of some secrets. Takes long to build: do it in a thread."""

    def __init__(self, forms: Iterable[bytes]) -> None:
        kept = list(dict.fromkeys(forms))
        self.omitted = max(0, len(kept) - MAX_FORMS)
        self._places: dict[bytes, list[Place]] = {}  # of the pieces of long forms
        patterns: set[bytes] = set()
        for form in kept[:MAX_FORMS]:
            if len(form) <= _MAX_WHOLE_BYTES:
                patterns.add(form)
                continue
            for piece, offset in _pieces_of(form):
                self._places.setdefault(piece, []).append(Place(form, offset))
        for places in self._places.values():
            if places[1:]:
                places.sort(key=_next_bytes)
        self._sorted = sorted(patterns.union(self._places))
        self._longest = max(map(len, self._sorted), default=0)
        self._shortest = min(map(len, self._sorted), default=0)
        self._by_seed: dict[bytes, list[bytes]] = {}
        for pattern in self._sorted:
            self._by_seed.setdefault(pattern[:_SEED_BYTES], []).append(pattern)
        self._anchors = _filters({seed[-_ANCHOR_BYTES:] for seed in self._by_seed})
        self._seeds = _searches(self._by_seed, _NFA)
        prefixes = {pattern[:_PREFIX_BYTES] for pattern in self._sorted}
        # Among many, looking each place of a tail up is as fast as searching, and takes nothing to build.
        self._many_prefixes = prefixes if len(prefixes) > _MAX_FOR_DFA else ()
        # Tails are short: a DFA would take longer to build than it saves.
        self._prefixes = () if self._many_prefixes else _filters(prefixes, max_for_dfa=0)
        self._beginnings = {prefix[:length] for prefix in prefixes for length in range(1, _PREFIX_BYTES)}

    @classmethod
    def of(cls, secrets: Iterable[str]) -> "Patterns":
        """Returns the patterns for all forms of some secrets."""
        return cls(form for secret in secrets for form in forms_of(secret) if len(form) >= MIN_SECRET_BYTES)

    def __len__(self) -> int:
        return len(self._sorted)

    def __bool__(self) -> bool:
        return self._longest > 0

    def may_be_in(self, text: bytes) -> bool:
        """Returns whether it is worth looking for matches."""
        return len(text) >= self._shortest and any(search.find_matches_as_indexes(text) for search in self._anchors)

    def is_absent(self, text: bytes) -> bool:
        """Returns whether certainly no pattern is in a text, nor begins in it."""
        return self.open_tail(text, 0) == len(text) and not self.may_be_in(text)

    def matches(self, text: bytes) -> Iterator[Match]:
        """Yields the leftmost matches, of those that begin at one place the longest.

        Where comparing would take too long, a part of the text is one match, whatever is in it.
        """
        if not self.may_be_in(text):
            return
        end, work = 0, _Work(text)
        for window in range(0, len(text), _WINDOW_BYTES):
            if work.is_too_much and window < len(text) - _LAST_BYTES:
                continue
            if work.is_too_much:  # what may go on behind the end is looked at in any case
                yield Match(end, window, is_blanket=True)
                end, work = window, _Work(b"")
            for start, negative_end in self._seeds_in(text, max(window, end), window + _WINDOW_BYTES, work):
                if work.is_too_much:
                    break
                if start >= end and (match := self._match_at(text, start, -negative_end, end, work)):
                    yield match
                    end = match.end
        if work.is_too_much:
            yield Match(end, len(text), is_blanket=True)

    def open_tail(self, text: bytes, position: int) -> int:
        """Returns where, from `position` on, a pattern begins that goes on behind the end; the end if none does."""
        end = len(text)
        for start in self._prefixes_in(text, max(position, end - self._longest + 1)):
            rest = text[start:]
            index = bisect_right(self._sorted, rest)
            if index < len(self._sorted) and self._sorted[index].startswith(rest):
                return start
        for start in range(max(position, end - _PREFIX_BYTES + 1), end):
            if text[start:] in self._beginnings:
                return start
        return end

    def _seeds_in(self, text: bytes, first: int, last: int, work: "_Work") -> list[tuple[int, int]]:
        """Returns the seeds that begin in a part of the text, and the negatives of their ends; sorted."""
        part = text[first : last + _SEED_BYTES - 1] if first < last else b""
        hits = [search.find_matches_as_indexes(part, overlapping=True) for search in self._seeds]
        work.add(_HIT_WORK * sum(map(len, hits)))
        if work.is_too_much:
            return []
        return sorted((first + start, -first - end) for each in hits for _, start, end in each if first + start < last)

    def _prefixes_in(self, text: bytes, first: int) -> Sequence[int]:
        """Returns, in order, where prefixes may begin: a hit hides others that begin within it."""
        last = len(text) - _PREFIX_BYTES
        if self._many_prefixes:
            places = range(first, last + 1)
            return [start for start in places if text[start : start + _PREFIX_BYTES] in self._many_prefixes]
        tail = text[first:] if first else text
        starts = [start for search in self._prefixes for _, start, _ in search.find_matches_as_indexes(tail)]
        if not starts:
            return ()
        near = {first + start + offset for start in starts for offset in range(_PREFIX_BYTES)}
        return sorted(start for start in near if start <= last)

    def _match_at(self, text: bytes, start: int, end: int, floor: int, work: "_Work") -> Match | None:
        pattern = _longest_prefix(self._by_seed[text[start:end]], text[start : start + _MAX_WHOLE_BYTES])
        work.add(_COMPARISON_WORK)
        if pattern is None:
            return None
        places = self._places.get(pattern)
        if places is None:
            return Match(start, start + len(pattern))
        likely = _most_alike(text[start : start + _COMPARED_BYTES], places)
        work.add(_LIKELY_WORK * len(likely) + _PLACE_WORK * len(places))
        return extended(text, start, likely, floor, before=places)


class _Work:
    """How long comparing takes, in tenths of microseconds."""

    def __init__(self, text: bytes) -> None:
        self._done = 0
        self._limit = _MAX_WORK * (1 + len(text) // 65_536)

    def add(self, work: int) -> None:
        self._done += work

    @property
    def is_too_much(self) -> bool:
        return self._done > self._limit


def _longest_prefix(patterns: Sequence[bytes], text: bytes) -> bytes | None:
    """Returns the longest of the sorted patterns that the text begins with."""
    index = bisect_right(patterns, text)
    while index:
        pattern = patterns[index - 1]
        if text.startswith(pattern):
            return pattern
        text = text[: _common_length(text, 0, pattern, 0)]
        index = bisect_right(patterns, text, 0, index - 1)
    return None


def _next_bytes(place: Place) -> bytes:
    return place.form[place.offset : place.offset + _COMPARED_BYTES]


def _most_alike(text: bytes, places: Sequence[Place]) -> Sequence[Place]:
    """Returns, of places in their order, those that go along with the text for longest, and perhaps one that does not.

    All that go along to its end are among them.
    """
    first = last = bisect_left(places, text, key=_next_bytes)
    while last < len(places) and _next_bytes(places[last]).startswith(text):
        last += 1
    return places[first:last] or places[max(0, first - 1) : first + 1]


def extended(text: bytes, start: int, places: Sequence[Place], floor: int, *, before: Sequence[Place] = ()) -> Match:
    """Returns how far the forms go along with a text: forward, and those of `before`, down to `floor`, backward."""
    lengths = [_common_length(text, start, form, offset) for form, offset in places]
    length = max(lengths)
    end = start + length
    continued = [
        Place(form, offset + length)
        for (form, offset), each in zip(places, lengths, strict=True)
        if each == length and end == len(text) and offset + length < len(form)
    ]
    back = max((_common_length_before(text, start, place, floor) for place in before), default=0)
    return Match(character_start(text, start - back, floor), character_start(text, end, start), continued)


def character_start(text: bytes, index: int, floor: int) -> int:
    """Returns the start of the character at `index`, not below `floor`."""
    while floor < index < len(text) and text[index] in _CONTINUATION:
        index -= 1
    return index


def _pieces_of(form: bytes) -> Iterator[tuple[bytes, int]]:
    for offset in range(0, len(form) - _PIECE_BYTES + 1, _PIECE_INTERVAL_BYTES):
        yield form[offset : offset + _PIECE_BYTES], offset


def _filters(patterns: Collection[bytes], max_for_dfa: int = _MAX_FOR_DFA) -> list[BytesAhoCorasick]:
    """Returns the fastest searches that tell whether any of the patterns is in a text."""
    if len(patterns) <= _MAX_FOR_SIMD:
        # Only with this kind of match does the library use SIMD.
        return _searches(patterns, _NFA, _PATTERNS_PER_SIMD_SEARCH, MatchKind.LeftmostFirst)
    # A DFA is twice as fast as the NFA, and takes five times as long to build.
    return _searches(patterns, _DFA if len(patterns) < max_for_dfa else _NFA)


def _searches(
    patterns: Iterable[bytes],
    implementation: Implementation,
    size: int = _PATTERNS_PER_SEARCH,
    kind: MatchKind = MatchKind.Standard,
) -> list[BytesAhoCorasick]:
    ordered = sorted(patterns)
    count = -(-len(ordered) // size)
    # Dealt out: with patterns that begin alike the library looks for their first bytes only, which are everywhere.
    groups = (ordered[at::count] for at in range(count))
    return [BytesAhoCorasick(group, matchkind=kind, implementation=implementation) for group in groups]


def _common_length(text: bytes, start: int, form: bytes, offset: int) -> int:
    same, limit = 0, min(len(text) - start, len(form) - offset)
    step, grows = _FIRST_STEP_BYTES, True
    while same < limit and step:
        step = min(step, limit - same)
        if text[start + same : start + same + step] == form[offset + same : offset + same + step]:
            same += step
            step = step * 4 if grows else step
        else:
            step, grows = step // 2, False
    return same


def _common_length_before(text: bytes, start: int, place: Place, floor: int) -> int:
    limit = min(start - floor, place.offset, _PIECE_INTERVAL_BYTES)
    if not limit or text[start - 1] != place.form[place.offset - 1]:
        return 0
    return _common_length(
        text[start - limit : start][::-1], 0, place.form[place.offset - limit : place.offset][::-1], 0
    )
