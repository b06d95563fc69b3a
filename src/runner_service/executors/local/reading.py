"""Reads files and lists directories below a root. All functions block on the file system."""

import codecs
import mimetypes
import os
import stat
from collections.abc import Sequence
from itertools import islice
from typing import BinaryIO

from runner_service.executors.local.deadline import Deadline
from runner_service.executors.local.paths import Place, Root, display_path
from runner_service.executors.protocol import BinaryFile, FileEntry, FileError, TextLines

_SAMPLE_BYTES = 64 * 1024
_PIECE_BYTES = 1024 * 1024
_MAX_WINDOW_BYTES = 16 * 1024 * 1024
_MAX_COUNTED_BYTES = 256 * 1024 * 1024
_MAX_ENTRIES = 100_000
_OPEN_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_NOCTTY | os.O_CLOEXEC
_CONTROLS = bytes(set(range(0x20)) - set(b"\t\n\r\f\b\x1b")) + b"\x7f"
_MAX_CONTROLS = 8
_BINARY_MAGIC = (b"%PDF-", b"\x89PNG", b"\xff\xd8\xff", b"PK\x03\x04", b"\x1f\x8b")
"""How binary files begin that are small enough, or by chance, to have no control characters."""


def open_regular(root: Root, path: str) -> BinaryIO:
    """Opens a regular file; FIFOs, devices and other kinds are refused without blocking."""
    with root.locate(path) as place:
        return open_place(place)


def open_place(place: Place) -> BinaryIO:
    """Opens the regular file at a place. Raises FileError, OSError."""
    # Opening a device can have effects, so check before, and again after opening.
    _require_regular(os.stat(place.name, dir_fd=place.directory, follow_symlinks=False), place.path)
    file = os.fdopen(os.open(place.name, _OPEN_FLAGS, dir_fd=place.directory), "rb")
    try:
        _require_regular(os.fstat(file.fileno()), place.path)
    except FileError:
        file.close()
        raise
    return file


def read_text(root: Root, path: str, offset: int, limit: int, deadline: Deadline) -> TextLines | BinaryFile:
    """Reads `limit` lines after the first `offset` ones, or announces a binary file. Raises FileError."""
    if offset < 0 or limit < 0:
        raise FileError("invalid", "offset and limit cannot be negative")
    with open_regular(root, path) as file:
        media_type = mimetypes.guess_type(path)[0] or ""
        if _is_binary(file.read(_SAMPLE_BYTES)):
            return BinaryFile(os.fstat(file.fileno()).st_size, media_type or "application/octet-stream")
        file.seek(0)
        return _window(file, path, offset, limit, deadline)


def list_directory(root: Root, path: str, deadline: Deadline, limit: int = _MAX_ENTRIES) -> list[FileEntry]:
    """Lists a directory of at most `limit` entries, sorted by path. Raises FileError."""
    with root.locate(path) as place:
        _require_directory(place)
        directory = os.open(place.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=place.directory)
        try:
            with os.scandir(directory) as found:
                names = [each.name for each in islice(found, limit + 1)]
            if len(names) > limit:
                raise FileError("too_large", f"{place.path}: more than {limit:,} entries; use glob, or a command")
            entries = []
            for name in names:
                deadline.require(path)
                entries.append(_entry(root, f"{place.path.rstrip('/')}/{name}", name, directory))
        finally:
            os.close(directory)
    return sorted((entry for entry in entries if entry), key=lambda entry: entry.path)


def _require_regular(found: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise FileError("is_directory", f"{path}: this is a directory; list it instead")
    if not stat.S_ISREG(found.st_mode):
        raise FileError("not_regular", f"{path}: this is a {_kind(found.st_mode)}, not a regular file")


def _require_directory(place: Place) -> None:
    found = os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
    if not stat.S_ISDIR(found.st_mode):
        raise FileError("not_directory", f"{place.path}: this is not a directory; read it instead")


def _kind(mode: int) -> str:
    kinds = {stat.S_IFIFO: "FIFO", stat.S_IFSOCK: "socket", stat.S_IFCHR: "device", stat.S_IFBLK: "device"}
    return kinds.get(stat.S_IFMT(mode), "symlink")


def _entry(root: Root, path: str, name: str, directory: int) -> FileEntry | None:
    """Describes a directory entry; a symlink by its target, if that is inside the root."""
    try:
        found = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if stat.S_ISLNK(found.st_mode):
            found = _target(root, path) or found
    except FileNotFoundError:
        return None
    return FileEntry(display_path(path), stat.S_ISDIR(found.st_mode), found.st_size, found.st_mtime)


def _target(root: Root, path: str) -> os.stat_result | None:
    try:
        with root.locate(path) as place:
            return os.stat(place.name, dir_fd=place.directory, follow_symlinks=False)
    except FileError:
        return None


def _is_binary(sample: bytes) -> bool:
    """Returns whether a file that begins with `sample` is binary: by its content, never by its name.

    Text in any encoding of bytes has next to no control characters; of compressed data they are a tenth.
    """
    controls = len(sample) - len(sample.translate(None, _CONTROLS))
    return b"\0" in sample or controls > max(_MAX_CONTROLS, len(sample) // 50) or sample.startswith(_BINARY_MAGIC)


def _window(file: BinaryIO, path: str, offset: int, limit: int, deadline: Deadline) -> TextLines:
    """Reads the requested lines in pieces, since a line may be of any length, and counts the rest, up to 256 MiB."""
    kept: list[bytes] = []
    ended, in_line = _skip(file, path, offset, deadline)
    size = 0
    while ended < offset + limit and (piece := file.readline(_PIECE_BYTES)):
        deadline.require(path)
        kept.append(piece)
        size += len(piece)
        if size > _MAX_WINDOW_BYTES:
            raise FileError("too_large", f"{path}: these lines are longer than 16 MiB; read fewer, or grep in it")
        in_line = not piece.endswith(b"\n")
        ended += not in_line
    counted = 0
    while not (is_cut := counted > _MAX_COUNTED_BYTES or deadline.has_passed()) and (block := file.read(_PIECE_BYTES)):
        counted += len(block)
        ended += block.count(b"\n")
        in_line = not block.endswith(b"\n")
    return TextLines(_decoded(kept), offset + 1 if kept else 0, ended + in_line, is_total_exact=not is_cut)


def _decoded(pieces: Sequence[bytes]) -> str:
    """Decodes piece by piece: 16 MiB at once would keep other threads waiting for 160 ms."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    return "".join([decoder.decode(piece) for piece in pieces] + [decoder.decode(b"", final=True)])


def _skip(file: BinaryIO, path: str, lines: int, deadline: Deadline) -> tuple[int, bool]:
    """Skips lines; returns how many were complete, fewer at the end of the file, and whether a partial one follows."""
    ended, in_line = 0, False
    while ended < lines and (block := file.read(_PIECE_BYTES)):
        deadline.require(path)
        count = block.count(b"\n")
        if ended + count >= lines:
            end = -1
            for _ in range(lines - ended):
                end = block.index(b"\n", end + 1)
            file.seek(end + 1 - len(block), os.SEEK_CUR)
            return lines, False
        ended += count
        in_line = not block.endswith(b"\n")
    return ended, in_line
