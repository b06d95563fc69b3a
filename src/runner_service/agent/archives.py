"""Unpacking a ZIP that others have made: only plain files, only below the place they are meant for, only so much."""

import io
import lzma
import stat
import zipfile
import zlib
from pathlib import PurePosixPath
from typing import NamedTuple

MAX_FILES = 2000
MAX_BYTES = 64 * 1024 * 1024
MAX_PATH = 512

_PIECE = 256 * 1024
_MADE_ON_UNIX = 3
_BROKEN = (
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
    """The archive is refused whole; the text says why."""


class ArchivedFile(NamedTuple):
    """A file: its path, relative and without `..`, its content, and whether it is to be executable."""

    path: str
    data: bytes
    executable: bool


def unpack_zip(archive: bytes, *, max_files: int = MAX_FILES, max_bytes: int = MAX_BYTES) -> list[ArchivedFile]:
    """Unpacks an archive, which takes some milliseconds for each MiB.

    Raises:
        ArchiveError: it is no ZIP or a broken one, an entry would land outside or is no plain file, or it is too large.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            entries = [each for each in opened.infolist() if not each.is_dir()]
            if len(entries) > max_files:
                raise ArchiveError(f"it has {len(entries):,} files, and {max_files:,} are the most")
            files: list[ArchivedFile] = []
            room = max_bytes
            for entry in entries:
                file = _read(opened, entry, room, max_bytes)
                room -= len(file.data)
                files.append(file)
            return files
    except _BROKEN as error:
        raise ArchiveError(f"it is no ZIP that can be read: {error}") from error


def _read(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, room: int, max_bytes: int) -> ArchivedFile:
    path = _checked(entry)
    pieces: list[bytes] = []
    with opened.open(entry) as stream:
        while piece := stream.read(_PIECE):  # what the entry says of its own size need not be true
            pieces.append(piece)
            room -= len(piece)
            if room < 0:
                raise ArchiveError(f"it has more than {max_bytes:,} bytes when unpack_zip")
    data = b"".join(pieces)
    mode = entry.external_attr >> 16 if entry.create_system == _MADE_ON_UNIX else 0
    return ArchivedFile(path, data, bool(mode & stat.S_IXUSR) or data.startswith(b"#!"))


def _checked(entry: zipfile.ZipInfo) -> str:
    name = entry.orig_filename
    path = PurePosixPath(name)
    odd = not path.parts or ".." in path.parts or "\\" in name or not name.isprintable()
    if odd or path.is_absolute() or ":" in path.parts[0]:
        raise ArchiveError(f"the entry {name!r} would land outside, or has a name that is not plain")
    if len(name.encode()) > MAX_PATH:
        raise ArchiveError(f"an entry has a name of more than {MAX_PATH} bytes")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in {0, stat.S_IFREG}:
        raise ArchiveError(f"the entry {name!r} is a link or a device")
    return str(path)
