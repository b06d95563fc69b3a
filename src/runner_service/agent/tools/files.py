"""Adapts the files of a sandbox to deepagents' backend protocol. Errors are results, for the model."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import accumulate

from deepagents.backends.protocol import (
    BackendProtocol,
    EditResult,
    FileData,
    FileInfo,
    GlobResult,
    GrepMatch,
    GrepResult,
    LsResult,
    ReadResult,
    WriteResult,
)

from runner_service.agent.tools.excerpt import MAX_WINDOW_CHARACTERS, first_lines
from runner_service.agent.tools.scope import includes_ignored
from runner_service.executors.protocol import BinaryFile, FileEntry, FileError, Sandbox, TextLines
from runner_service.redaction import MARK, Redactor

_GREP_LIMIT = 1000
_MAX_LINES = 10_000
_MAX_ENTRIES = 1000
_MAX_LISTING_CHARACTERS = 50_000  # characters
_MEDIA_NAME = re.compile(
    r"\.(png|jpe?g|webp|gif|hei[cf]|mp4|mpe?g|mov|avi|flv|webm|wmv|3gpp|mkv|wav|mp3|aiff|aac|ogg|flac|pdf|pptx?)$",
    re.IGNORECASE,
)
"""Suffixes that deepagents treats as media, whatever the content."""
_HIDDEN_SECRET = (
    f"the text holds {MARK}, which stands for a secret that you cannot see; writing it would destroy the real value. "
    "Leave that part out, or let a command write it from its environment variable."
)


@dataclass(frozen=True)
class SandboxFiles(BackendProtocol):
    """The files below a sandbox's root."""

    sandbox: Sandbox
    redactor: Redactor
    agent: str = ""
    """Whose tools these are: a sub-agent's id, or empty."""

    async def als(self, path: str) -> LsResult:
        """Lists a directory."""
        try:
            entries = await self.sandbox.list_directory(path)
        except FileError as error:
            return LsResult(error=error.message)
        return LsResult(entries=_listing(path, entries))

    async def aread(self, file_path: str, offset: int = 0, limit: int = 2000) -> ReadResult:
        """Reads a window of lines of a text file; describes a binary file."""
        try:
            content = await self.sandbox.read_text(
                file_path, offset=offset, limit=min(limit, _MAX_LINES), agent=self.agent
            )
        except FileError as error:
            return ReadResult(error=error.message)
        if isinstance(content, BinaryFile):
            kind = f"{content.media_type}, {content.size:,} bytes"
            return ReadResult(error=f"'{file_path}' is not text ({kind}); examine it with a command")
        if _MEDIA_NAME.search(file_path):
            return ReadResult(
                error=f"'{file_path}' is text under the name of another kind of file; use a command, as cat"
            )
        return _window(file_path, offset, content)

    async def awrite(self, file_path: str, content: str) -> WriteResult:
        """Writes a whole file, unless the content has the redaction mark."""
        if self._holds_mark(content):
            return WriteResult(error=f"'{file_path}' was not written: {_HIDDEN_SECRET}")
        try:
            await self.sandbox.write_text(file_path, content, agent=self.agent)
        except FileError as error:
            return WriteResult(error=error.message)
        return WriteResult(path=file_path)

    async def aedit(self, file_path: str, old_string: str, new_string: str, replace_all: bool = False) -> EditResult:
        """Replaces a string in a file, unless either string has the redaction mark."""
        if self._holds_mark(old_string) or self._holds_mark(new_string):
            return EditResult(error=f"'{file_path}' was not changed: {_HIDDEN_SECRET}")
        try:
            count = await self.sandbox.edit_text(
                file_path, old_string, new_string, replace_all=replace_all, agent=self.agent
            )
        except FileError as error:
            return EditResult(error=error.message)
        return EditResult(path=file_path, occurrences=count)

    async def aglob(self, pattern: str, path: str | None = None) -> GlobResult:
        """Finds files by name."""
        try:
            found = await self.sandbox.glob(pattern, path or "/", include_ignored=includes_ignored.get())
        except FileError as error:
            return GlobResult(error=error.message)
        return GlobResult(matches=[_file_info(entry) for entry in found.items], truncated=found.truncated)

    async def agrep(
        self, pattern: str, path: str | None = None, glob: str | None = None, *, max_count: int | None = None
    ) -> GrepResult:
        """Finds lines that contain a literal string."""
        limit = max_count or _GREP_LIMIT
        try:
            found = await self.sandbox.grep(
                pattern, path or "/", include=glob or "", limit=limit, include_ignored=includes_ignored.get()
            )
        except FileError as error:
            return GrepResult(error=error.message)
        matches = [GrepMatch(path=each.path, line=each.line, text=each.text) for each in found.items]
        return GrepResult(matches=matches, truncated=found.truncated)

    def _holds_mark(self, text: str) -> bool:
        return MARK in text and bool(self.redactor)


def _file_info(entry: FileEntry) -> FileInfo:
    return FileInfo(
        path=f"{entry.path.rstrip('/')}/" if entry.is_directory else entry.path,
        is_dir=entry.is_directory,
        size=entry.size,
        modified_at=datetime.fromtimestamp(entry.modified, UTC).isoformat(),
    )


def _window(path: str, offset: int, lines: TextLines) -> ReadResult:
    if not lines.first_line and lines.total_lines:
        return ReadResult(
            error=f"line offset {offset} is beyond the end of '{path}', which has {lines.total_lines} lines"
        )
    if not lines.first_line:
        return ReadResult(file_data=FileData(content=lines.text, encoding="utf-8"))
    text = first_lines(lines.text, MAX_WINDOW_CHARACTERS)
    last = lines.first_line + text.count("\n") - text.endswith("\n")
    return ReadResult(
        file_data=FileData(content=text, encoding="utf-8"),
        start_line=lines.first_line,
        end_line=last,
        total_lines=lines.total_lines if lines.is_total_exact else None,
        next_offset=last if last < lines.total_lines else None,
    )


def _listing(path: str, entries: Sequence[FileEntry]) -> list[FileInfo]:
    """Returns a bounded number of entries, then a hint how to find the rest."""
    sizes = accumulate(len(entry.path) for entry in entries[:_MAX_ENTRIES])
    shown = [_file_info(entry) for entry, size in zip(entries, sizes, strict=False) if size <= _MAX_LISTING_CHARACTERS]
    if left := len(entries) - len(shown):
        where = path.rstrip("/")
        hint = f"[… {left:,} entries more, of {len(entries):,}: name a pattern, as glob {where}/a*, or use a command …]"
        shown.append(FileInfo(path=hint, is_dir=False))
    return shown
