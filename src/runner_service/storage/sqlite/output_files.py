"""Output files of commands: one for each stream of a call, with the raw bytes."""

import os
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

from runner_service.executors.protocol import Stream

_MAX_OPEN_FILES = 64


class OutputKey(NamedTuple):
    """Identifies a file: the execution's key in the log, the sequence of `tool_call_started`, the stream."""

    execution: int
    call: int
    stream: Stream


class OutputFiles:
    """Appends to and reads from the output files below a directory.

    Only the log's writer thread appends. `rollback` undoes what was appended since the last `commit`, so that a batch
    that fails and is retried stores nothing twice.
    """

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        self._directory = directory
        self._open: OrderedDict[OutputKey, int] = OrderedDict()
        self._committed_sizes: dict[OutputKey, int] = {}

    def append(self, key: OutputKey, data: bytes) -> int:
        """Appends and returns the offset at which `data` begins. Raises OSError."""
        descriptor = self._descriptor(key)
        offset = os.lseek(descriptor, 0, os.SEEK_END)
        self._committed_sizes.setdefault(key, offset)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        return offset

    def commit(self) -> None:
        """Makes what was appended permanent."""
        self._committed_sizes.clear()

    def rollback(self) -> None:
        """Truncates the files to what they were at the last `commit`."""
        for key, offset in self._committed_sizes.items():
            os.ftruncate(self._descriptor(key), offset)
        self._committed_sizes.clear()

    def read(self, key: OutputKey, offset: int, max_bytes: int) -> bytes:
        """Reads a range; empty beyond the end, or when nothing was written. Raises OSError."""
        try:
            descriptor = os.open(self._path(key), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return b""
        try:
            # Reading far beyond the end is an error of the kernel.
            return os.pread(descriptor, max_bytes, offset) if offset < os.fstat(descriptor).st_size else b""
        finally:
            os.close(descriptor)

    def close_files_of(self, execution: int) -> None:
        """Closes the files of an execution that is being deleted."""
        for key in [key for key in self._open if key.execution == execution]:
            os.close(self._open.pop(key))

    def directory(self, execution: int) -> Path:
        """Returns the directory of an execution's files."""
        return self._directory / str(execution)

    def size(self, execution: int) -> int:
        """Returns the size of an execution's files in bytes."""
        try:
            with os.scandir(self.directory(execution)) as entries:
                return sum(entry.stat().st_size for entry in entries)
        except FileNotFoundError:
            return 0

    def close(self) -> None:
        """Closes the open files."""
        while self._open:
            os.close(self._open.popitem()[1])

    def _descriptor(self, key: OutputKey) -> int:
        if key in self._open:
            self._open.move_to_end(key)
            return self._open[key]
        path = self._path(key)
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self._open[key] = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        if len(self._open) > _MAX_OPEN_FILES:
            os.close(self._open.popitem(last=False)[1])
        return self._open[key]

    def _path(self, key: OutputKey) -> Path:
        return self.directory(key.execution) / f"{key.call}.{key.stream}"
