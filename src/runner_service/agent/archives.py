"""Unpacks untrusted ZIP archives: regular files only, no path traversal, bounded in files, size and ratio.

One archive at a time is worked on in the process, and a piece of one file at a time is in memory.
"""

import asyncio
import io
import lzma
import stat
import zipfile
import zlib
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import PurePosixPath
from typing import NamedTuple, TypeVar

MAX_FILES = 2000
MAX_BYTES = 64 * 1024 * 1024
"""Limits of all archives of a request together."""

MAX_RATIO = 100
RATIO_ALLOWANCE_BYTES = 1024 * 1024
"""Unpacked, an archive has at most 100 times its own size, and 1 MiB more."""

MAX_PATH_BYTES = 512

T = TypeVar("T")

_CHUNK_BYTES = 256 * 1024
_UNIX_SYSTEM = 3
_METHODS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})  # others make 64 MiB out of 185 bytes
_ZIP_ERRORS = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,
)
_thread = ThreadPoolExecutor(1, thread_name_prefix="archives")


class ArchiveError(Exception):
    """The archive is rejected; the text says why."""


class ArchivedFile(NamedTuple):
    """A file: its path, relative and without `..`, and whether it is to be executable."""

    path: str
    executable: bool
    entry: zipfile.ZipInfo


@dataclass
class Budget:
    """How much the archives of a request may still unpack to."""

    files: int = MAX_FILES
    size: int = MAX_BYTES


class Archive:
    """A checked archive: `files` can be unpacked. Open it with `open_archive`."""

    def __init__(self, opened: zipfile.ZipFile, files: list[ArchivedFile]) -> None:
        self._opened = opened
        self.files = files

    async def chunks(self, file: ArchivedFile) -> AsyncGenerator[bytes, None]:
        """Yields the content of a file. Close it if it is not read to its end."""
        stream = await _in_thread(partial(self._opened.open, file.entry))
        try:
            while chunk := await _in_thread(partial(stream.read, _CHUNK_BYTES)):
                yield chunk
        finally:
            stream.close()


async def open_archive(data: bytes, budget: Budget) -> Archive:
    """Reads an archive through, and takes what it unpacks to from the budget.

    Raises:
        ArchiveError: not a valid ZIP, a path escapes the target, an entry is not a regular file, or it is too large.
    """
    return await _in_thread(partial(_check, data, budget))


async def _in_thread(work: Callable[[], T]) -> T:
    return await asyncio.get_running_loop().run_in_executor(_thread, work)


def _check(data: bytes, budget: Budget) -> Archive:
    try:
        opened = zipfile.ZipFile(io.BytesIO(data))
        entries = [each for each in opened.infolist() if not each.is_dir()]
        if len(entries) > budget.files:
            raise ArchiveError(f"it has {len(entries):,} files, and {budget.files:,} more are the most")
        limit = min(budget.size, MAX_RATIO * len(data) + RATIO_ALLOWANCE_BYTES)
        size = 0
        files: list[ArchivedFile] = []
        for entry in entries:
            file, new_size = _read_through(opened, entry, size, limit)
            size = new_size
            files.append(file)
    except _ZIP_ERRORS as error:
        raise ArchiveError(f"it is no ZIP that can be read: {error}") from error
    budget.files -= len(files)
    budget.size -= size
    return Archive(opened, files)


def _read_through(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, size: int, limit: int) -> tuple[ArchivedFile, int]:
    path = _checked_path(entry)
    if entry.compress_type not in _METHODS:
        raise ArchiveError(f"the entry {path!r} is compressed by another method than deflate")
    head = b""
    with opened.open(entry) as stream:
        while chunk := stream.read(_CHUNK_BYTES):  # the declared size may be wrong
            head = head or chunk[:2]
            size += len(chunk)
            if size > limit:
                raise ArchiveError(f"it has more than {limit:,} bytes when unpacked")
    mode = entry.external_attr >> 16 if entry.create_system == _UNIX_SYSTEM else 0
    return ArchivedFile(path, bool(mode & stat.S_IXUSR) or head == b"#!", entry), size


def _checked_path(entry: zipfile.ZipInfo) -> str:
    name = entry.orig_filename
    path = PurePosixPath(name)
    odd = not path.parts or ".." in path.parts or "\\" in name or not name.isprintable()
    if odd or path.is_absolute() or ":" in path.parts[0]:
        raise ArchiveError(f"the entry {name!r} would land outside, or has a name that is not plain")
    if len(name.encode()) > MAX_PATH_BYTES:
        raise ArchiveError(f"an entry has a name of more than {MAX_PATH_BYTES} bytes")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in {0, stat.S_IFREG}:
        raise ArchiveError(f"the entry {name!r} is a link or a device")
    return str(path)
