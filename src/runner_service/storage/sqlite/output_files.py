"""The files that hold what commands wrote: one for each stream of a call, bytes and nothing else."""

import os
import shutil
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

from runner_service.executors.protocol import Stream

_OPEN_FILES = 64


class OutputKey(NamedTuple):
    """Names a file: the execution's key in the log, the sequence of the event that started the call, the stream."""

    execution: int
    call: int
    stream: Stream


class OutputFiles:
    """Appends to and reads from the output files below a directory.

    Appending belongs to one thread, the log's writer. It is undone by `rollback` unless `keep` came first, so that a
    commit that fails and is tried again stores nothing twice.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        self._directory = directory
        self._open: OrderedDict[OutputKey, int] = OrderedDict()
        self._before: dict[OutputKey, int] = {}

    def append(self, key: OutputKey, data: bytes) -> int:
        """Appends and returns the offset at which `data` begins. Raises OSError."""
        descriptor = self._descriptor(key)
        offset = os.lseek(descriptor, 0, os.SEEK_END)
        self._before.setdefault(key, offset)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        return offset

    def keep(self) -> None:
        """What was appended stays."""
        self._before.clear()

    def rollback(self) -> None:
        """Takes back what was appended since `keep`."""
        for key, offset in self._before.items():
            os.ftruncate(self._descriptor(key), offset)
        self._before.clear()

    def read(self, key: OutputKey, offset: int, max_bytes: int) -> bytes:
        """Reads a range; empty beyond the end, or when nothing was written. Raises OSError."""
        try:
            descriptor = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        try:
            # Far beyond the end the kernel calls it an error.
            return os.pread(descriptor, max_bytes, offset) if offset < os.fstat(descriptor).st_size else b""
        finally:
            os.close(descriptor)

    def remove(self, execution: int) -> int:
        """Removes the files of an execution and returns how many bytes they had."""
        for key in [key for key in self._open if key.execution == execution]:
            os.close(self._open.pop(key))
        directory = self._directory / str(execution)
        size = self.size(execution)
        shutil.rmtree(directory, ignore_errors=True)
        return size

    def size(self, execution: int) -> int:
        """Sums the bytes of an execution's files."""
        try:
            with os.scandir(self._directory / str(execution)) as entries:
                return sum(entry.stat().st_size for entry in entries)
        except FileNotFoundError:
            return 0

    def close(self) -> None:
        """Closes what is open."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _descriptor(self, key: OutputKey) -> int:
        if key in self._open:
            self._open.move_to_end(key)
            return self._open[key]
        path = self._path(key)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self._open[key] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if len(self._open) > _OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        return self._open[key]

    def _path(self, key: OutputKey) -> Path:
        return self._directory / str(key.execution) / f"{key.call}.{key.stream}"
