"""What a command writes, kept in files until the service has taken it, and longer, since it may ask again."""

import asyncio
import base64
import os
from pathlib import Path
from typing import Any

from runner_service.executors.protocol import Stream

STREAMS: tuple[Stream, Stream] = ("stdout", "stderr")

_MOST_AHEAD = 4 * 1024 * 1024
_KEPT_OF_WHAT_WAS_TAKEN = 16 * 1024 * 1024
_ALWAYS_TAKEN = 1024 * 1024
_RESERVE = 64 * 1024 * 1024
_SMALLEST_SHARE = 20
_LOOK_AGAIN = 0.2
_MOST_AT_ONCE = 576 * 1024


class News:
    """Lets any number of waiters know that something has changed; each looks for itself at what it was."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def tell(self) -> None:
        """Wakes everybody who waits now."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Returns at the next change. What was looked at before, without an await in between, is never missed."""
        await self._event.wait()


class DiskFullError(Exception):
    """There is no room for output, and there was none for as long as it was worth to wait."""


class Spool:
    """The output of one command, below `directory`. As an `OutputSink` it holds a command back that is far ahead.

    It also holds back one that would fill the disk, of which `reserve` bytes, or a twentieth if that is less, are for
    commands that write little; after `patience` seconds it fails. What was taken is there to be asked for again, unless
    `forgets`.
    """

    def __init__(
        self, directory: Path, news: News, *, forgets: bool = False, reserve: int = _RESERVE, patience: float = 10.0
    ) -> None:
        self._files = {stream: os.open(directory / stream, os.O_RDWR | os.O_CREAT, 0o600) for stream in STREAMS}
        self.sizes = {stream: os.fstat(file).st_size for stream, file in self._files.items()}
        self.taken = dict.fromkeys(STREAMS, 0)
        self._begins = dict.fromkeys(STREAMS, 0)
        self._forgets = forgets
        self._reserve = reserve
        self._patience = patience
        self._taken_more = News()
        self._news = news

    async def write(self, stream: Stream, data: bytes) -> None:
        """Appends, once there is room. Raises DiskFullError."""
        while self.sizes[stream] - self.taken[stream] > _MOST_AHEAD:
            await self._taken_more.wait()
        await self._room_on_disk(stream)
        try:
            written = os.pwrite(self._files[stream], data, self.sizes[stream] - self._begins[stream])
        except OSError as error:
            raise DiskFullError from error
        if written < len(data):
            raise DiskFullError
        self.sizes[stream] += len(data)
        self._news.tell()

    def take(self, stream: Stream, offset: int) -> None:
        """Takes note that the service has everything before `offset`."""
        self.taken[stream] = max(self.taken[stream], min(offset, self.sizes[stream]))
        if self._forgets:
            self._forget(stream)
        self._taken_more.tell()

    def let_go(self) -> None:
        """Holds back nothing any more: nobody will take it."""
        self.taken = dict(self.sizes)
        self._taken_more.tell()

    def has_beyond(self, offsets: dict[Stream, int]) -> bool:
        """Says whether there is more than was taken."""
        return any(self.sizes[stream] > offsets[stream] for stream in STREAMS)

    def pieces(self, offsets: dict[Stream, int], ends: dict[Stream, int] | None = None) -> dict[str, Any]:
        """Returns what comes next in each stream, in base64, and nothing behind `ends`."""
        return {stream: self._piece(stream, offsets[stream], (ends or self.sizes)[stream]) for stream in STREAMS}

    def _piece(self, stream: Stream, offset: int, end: int) -> str:
        size = max(0, min(_MOST_AT_ONCE, end - offset))
        if offset < self._begins[stream]:
            return ""  # an old request, found late: nobody waits for its answer
        return base64.b64encode(os.pread(self._files[stream], size, offset - self._begins[stream])).decode()

    async def _room_on_disk(self, stream: Stream) -> None:
        waited = 0.0
        while self.sizes[stream] > _ALWAYS_TAKEN and not self._is_room_on_disk(self._files[stream]):
            if waited >= self._patience:
                raise DiskFullError
            await asyncio.sleep(_LOOK_AGAIN)
            waited += _LOOK_AGAIN

    def _is_room_on_disk(self, file: int) -> bool:
        disk = os.fstatvfs(file)
        return disk.f_bavail * disk.f_frsize > min(self._reserve, disk.f_blocks * disk.f_frsize // _SMALLEST_SHARE)

    def _forget(self, stream: Stream) -> None:
        """Gives the room of what was taken back, once it is much."""
        file, past = self._files[stream], self.taken[stream] - self._begins[stream]
        if past >= _KEPT_OF_WHAT_WAS_TAKEN:
            rest = os.pread(file, self.sizes[stream] - self.taken[stream], past)
            os.ftruncate(file, 0)
            os.pwrite(file, rest, 0)
            self._begins[stream] = self.taken[stream]

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            os.close(file)
