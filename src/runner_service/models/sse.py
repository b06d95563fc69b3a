"""Decodes server-sent events, and bounds what is in them."""

import asyncio

from runner_service.models.failures import StreamBrokenError
from runner_service.models.json_values import MAX_VALUES, has_too_many_values

MAX_EVENT_BYTES = 8 * 1024 * 1024
"""Limit of one event of a provider."""

_MAX_UNCOUNTED_BYTES = 64 * 1024  # no more values than the limit fit into it, or not many more
_BOM = b"\xef\xbb\xbf"


class SseDecoder:
    """Decodes server-sent events from chunks of any size, with LF, CRLF or CR line ends."""

    def __init__(self) -> None:
        self._unread: list[bytes] = []
        self._size = 0
        self._data: list[bytes] = []
        self._started = False

    def feed(self, chunk: bytes) -> list[bytes]:
        """Decodes a chunk; returns the data of each complete event. Raises StreamBrokenError above the limit."""
        self._unread.append(chunk)
        self._size += len(chunk)
        if self._size > MAX_EVENT_BYTES:
            raise StreamBrokenError(f"the provider sent an event of more than {MAX_EVENT_BYTES:,} bytes")
        if b"\n" not in chunk and b"\r" not in chunk:
            return []
        unread = b"".join(self._unread)
        if unread.endswith(b"\r"):  # may be the first half of CRLF
            self._unread = [unread]
            return []
        return self._decode(unread)

    def finish(self) -> list[bytes]:
        """Returns the last event, which may lack its blank line."""
        return self._decode(b"".join(self._unread) + b"\n\n")

    def _decode(self, unread: bytes) -> list[bytes]:
        if not self._started:
            unread, self._started = unread.removeprefix(_BOM), True
        lines = unread.splitlines()  # of bytes: only at LF, CR and CRLF
        rest = b"" if unread.endswith((b"\n", b"\r")) else lines.pop()
        self._unread = [rest]
        complete: list[bytes] = []
        for line in lines:
            if line.startswith(b"data:"):
                self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
            elif not line and self._data:
                complete.append(b"\n".join(self._data))
                self._data.clear()
        if complete or not self._data:  # between events, comments do not count
            self._size = len(rest)
        return complete


async def require_few_values(data: bytes | bytearray) -> None:
    """Raises StreamBrokenError if a JSON text of a provider has more values than can be parsed at once."""
    if len(data) > _MAX_UNCOUNTED_BYTES and await asyncio.to_thread(has_too_many_values, bytes(data)):
        raise StreamBrokenError(f"the provider sent an event of more than {MAX_VALUES:,} values")
