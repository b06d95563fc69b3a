"""Buffers the output of a command in files until the service has read it, and longer, since reads may repeat."""

import asyncio
import os
from pathlib import Path

from runner_service.executors.protocol import Stream

STREAMS: tuple[Stream, Stream] = ("stdout", "stderr")

Offsets = dict[Stream, int]
"""How far each stream was read, in bytes."""

_MAX_UNREAD_BYTES = 4 * 1024 * 1024
_COMPACT_BYTES = 16 * 1024 * 1024
_ALWAYS_ACCEPTED_BYTES = 1024 * 1024
_DISK_RESERVE_BYTES = 64 * 1024 * 1024
_DISK_RESERVE_FRACTION = 20
_DISK_POLL_INTERVAL_SECONDS = 0.2


class Notifier:
    """Broadcasts that something changed; each waiter checks what."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Wakes all current waiters."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self) -> None:
        """Returns at the next change. No change is missed if there is no await between a check and this call."""
        await self._event.wait()


class DiskFullError(Exception):
    """The disk stayed full for the whole timeout."""


class OutputBuffer:
    """The output of one command, below `directory`. As an `OutputSink` it slows a command that is far ahead.

    It also holds back a command that would fill the disk: the last `reserve` bytes, or a twentieth of the disk if that
    is less, are for commands that write little; after `disk_timeout` seconds it fails. Acknowledged output can be read
    again, unless `discard_acknowledged`.
    """

    def __init__(
        self,
        directory: Path,
        notifier: Notifier,
        *,
        discard_acknowledged: bool = False,
        reserve: int = _DISK_RESERVE_BYTES,
        disk_timeout: float = 10.0,
    ) -> None:
        self._files = {stream: os.open(directory / stream, os.O_RDWR | os.O_CREAT, 0o600) for stream in STREAMS}
        self.sizes = {stream: os.fstat(file).st_size for stream, file in self._files.items()}
        self.acknowledged = dict.fromkeys(STREAMS, 0)
        self._file_start = dict.fromkeys(STREAMS, 0)
        self._discard_acknowledged = discard_acknowledged
        self._reserve = reserve
        self._patience = disk_timeout
        self._acknowledged_more = Notifier()
        self._notifier = notifier

    async def write(self, stream: Stream, data: bytes) -> None:
        """Appends once there is room. Raises DiskFullError."""
        while self.sizes[stream] - self.acknowledged[stream] > _MAX_UNREAD_BYTES:
            await self._acknowledged_more.wait()
        await self._wait_for_disk_space(stream)
        try:
            written = os.pwrite(self._files[stream], data, self.sizes[stream] - self._file_start[stream])
        except OSError as error:
            raise DiskFullError from error
        if written < len(data):
            raise DiskFullError
        self.sizes[stream] += len(data)
        self._notifier.notify()

    def acknowledge(self, stream: Stream, offset: int) -> None:
        """Records that the service has everything before `offset`."""
        self.acknowledged[stream] = max(self.acknowledged[stream], min(offset, self.sizes[stream]))
        if self._discard_acknowledged:
            self._discard(stream)
        self._acknowledged_more.notify()

    def acknowledge_all(self) -> None:
        """Stops back-pressure: nobody will read the output."""
        self.acknowledged = dict(self.sizes)
        self._acknowledged_more.notify()

    def has_output_after(self, offsets: Offsets) -> bool:
        """Whether there is output after `offsets`."""
        return any(self.sizes[stream] > offsets[stream] for stream in STREAMS)

    def acknowledge_all_before(self, offsets: Offsets) -> None:
        """Records how far the service has read each stream."""
        for stream in STREAMS:
            self.acknowledge(stream, offsets[stream])

    def read(self, stream: Stream, offset: int, end: int) -> bytes:
        """Returns the output of a stream from `offset` to `end`, if so much is there."""
        if offset < self._file_start[stream]:
            return b""  # a late duplicate of an old request: nobody waits for its response
        size = max(0, min(end, self.sizes[stream]) - offset)
        return os.pread(self._files[stream], size, offset - self._file_start[stream])

    async def _wait_for_disk_space(self, stream: Stream) -> None:
        waited = 0.0
        while self.sizes[stream] > _ALWAYS_ACCEPTED_BYTES and not self._has_disk_space(self._files[stream]):
            if waited >= self._patience:
                raise DiskFullError
            await asyncio.sleep(_DISK_POLL_INTERVAL_SECONDS)
            waited += _DISK_POLL_INTERVAL_SECONDS

    def _has_disk_space(self, file: int) -> bool:
        disk = os.fstatvfs(file)
        return disk.f_bavail * disk.f_frsize > min(
            self._reserve, disk.f_blocks * disk.f_frsize // _DISK_RESERVE_FRACTION
        )

    def _discard(self, stream: Stream) -> None:
        """Frees the space of acknowledged output once it is large."""
        file, past = self._files[stream], self.acknowledged[stream] - self._file_start[stream]
        if past >= _COMPACT_BYTES:
            rest = os.pread(file, self.sizes[stream] - self.acknowledged[stream], past)
            os.ftruncate(file, 0)
            os.pwrite(file, rest, 0)
            self._file_start[stream] = self.acknowledged[stream]

    def close(self) -> None:
        """Closes the files."""
        for file in self._files.values():
            os.close(file)
