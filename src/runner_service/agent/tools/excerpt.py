"""Cuts long output to head and tail, and counts the middle."""

import codecs
from collections import deque

from runner_service.executors.protocol import Stream

HEAD_BYTES = 10_000
TAIL_BYTES = 20_000

MAX_RESULT_CHARACTERS = 60_000
"""Limit of a tool result for the model, about 15,000 tokens."""

MAX_WINDOW_CHARACTERS = 50_000
"""Limit of a window of a file; leaves space for its header within a result."""

_CONTINUATION = range(0x80, 0xC0)
_MAX_CONTINUATION_BYTES = 3


class Excerpt:
    """Keeps the first and last bytes of a command's interleaved output, in constant memory."""

    def __init__(self, head: int = HEAD_BYTES, tail: int = TAIL_BYTES) -> None:
        self._head: list[tuple[Stream, bytes]] = []
        self._tail: deque[tuple[Stream, bytes]] = deque()
        self._head_room = head
        self._tail_room = tail
        self._tail_size = 0
        self.left_out = 0

    def add(self, stream: Stream, data: bytes) -> None:
        """Adds the next bytes of `stream`."""
        if self._head_room:
            self._head.append((stream, data[: self._head_room]))
            data = data[self._head_room :]
            self._head_room -= len(self._head[-1][1])
        if data:
            self._tail.append((stream, data))
            self._tail_size += len(data)
            self._trim()

    def text(self, gap: str) -> str:
        """Decodes the excerpt, with `gap` in place of the omitted middle."""
        decoders = {name: codecs.getincrementaldecoder("utf-8")("replace") for name in ("stdout", "stderr")}
        parts = [decoders[stream].decode(data) for stream, data in self._head]
        if self.left_out:
            parts.append(gap)
            for decoder in decoders.values():
                decoder.reset()
        cut = {"stdout", "stderr"} if self.left_out else set()
        for stream, data in self._tail:
            parts.append(decoders[stream].decode(_from_character(data) if stream in cut else data))
            cut.discard(stream)
        return "".join(parts + [decoder.decode(b"", final=True) for decoder in decoders.values()])

    def _trim(self) -> None:
        excess = self._tail_size - self._tail_room
        while excess > 0:
            stream, data = self._tail.popleft()
            if len(data) > excess:
                self._tail.appendleft((stream, data[excess:]))
            dropped = min(excess, len(data))
            self.left_out += dropped
            self._tail_size -= dropped
            excess -= dropped


def shorten(text: str, limit: int = MAX_RESULT_CHARACTERS) -> str:
    """Replaces the middle of a text of more than `limit` characters by its length."""
    if len(text) <= limit:
        return text
    head, tail = limit // 3, limit - limit // 3
    return f"{text[:head]}\n[… {len(text) - limit:,} characters left out …]\n{text[-tail:]}"


def first_lines(text: str, limit: int) -> str:
    """Returns the whole lines that fit into `limit` characters, at least one.

    deepagents tries each line end in turn: quadratic, hours for some megabytes.
    """
    if len(text) <= limit:
        return text
    end = text.rfind("\n", 0, limit) + 1 or text.find("\n") + 1
    return text[:end] if end else text


def _from_character(data: bytes) -> bytes:
    """Drops leading continuation bytes of a character that was cut."""
    start = 0
    while start < min(len(data), _MAX_CONTINUATION_BYTES) and data[start] in _CONTINUATION:
        start += 1
    return data[start:]
