"""Unpacks untrusted ZIP archives: regular files only, no path traversal, bounded in size."""

import io
import lzma
import stat
import zipfile
import zlib
from pathlib import PurePosixPath
from typing import NamedTuple

MAX_FILES = 2000
MAX_BYTES = 64 * 1024 * 1024
MAX_PATH_BYTES = 512

_CHUNK_BYTES = 256 * 1024
_UNIX_SYSTEM = 3
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


class ArchiveError(Exception):
    """The archive is rejected; the text says why."""


class ArchivedFile(NamedTuple):
    """A file: its path, relative and without `..`, its content, and whether it is to be executable."""

    path: str
    data: bytes
    executable: bool


def unpack_zip(archive: bytes, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES) -> list[ArchivedFile]:
    """Unpacks an archive. Blocks for some milliseconds per MiB.

    Raises:
        ArchiveError: not a valid ZIP, a path escapes the target, an entry is not a regular file, or it is too large.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            entries = [each for each in opened.infolist() if not each.is_dir()]
            if len(entries) > max_files:
                raise ArchiveError(f"it has {len(entries):,} files, and {max_files:,} are the most")
            files: list[ArchivedFile] = []
            remaining = max_bytes
            for entry in entries:
                file = _read(opened, entry, remaining, max_bytes)
                remaining -= len(file.data)
                files.append(file)
            return files
    except _ZIP_ERRORS as error:
        raise ArchiveError(f"it is no ZIP that can be read: {error}") from error


def _read(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, remaining: int, max_bytes: int) -> ArchivedFile:
    path = _checked_path(entry)
    chunks: list[bytes] = []
    with opened.open(entry) as stream:
        while chunk := stream.read(_CHUNK_BYTES):  # the declared size may be wrong
            chunks.append(chunk)
            remaining -= len(chunk)
            if remaining < 0:
                raise ArchiveError(f"it has more than {max_bytes:,} bytes when unpacked")
    data = b"".join(chunks)
    mode = entry.external_attr >> 16 if entry.create_system == _UNIX_SYSTEM else 0
    return ArchivedFile(path, data, bool(mode & stat.S_IXUSR) or data.startswith(b"#!"))


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
