"""Command outputs as read-only files for the agent's file tools."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

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

from runner_service.agent.tools.command import OUTPUT_MOUNT
from runner_service.agent.tools.excerpt import MAX_WINDOW_CHARACTERS, shorten
from runner_service.agent.tools.scope import RunScope

if TYPE_CHECKING:
    from runner_service.executors.protocol import Stream

_READ_BYTES = 256 * 1024
_MAX_PIECE_BYTES = 200_000
_GREP_LIMIT = 1000
_MAX_MATCH_CHARACTERS = 2000  # characters
_READ_ONLY = f"{OUTPUT_MOUNT} is read-only: it holds what commands wrote"


@dataclass(frozen=True)
class CommandOutputs(BackendProtocol):
    """One file per non-empty stream of a command: `<tool call id>.stdout` and `….stderr`."""

    scope: RunScope

    async def als(self, path: str) -> LsResult:
        """Lists the files."""
        del path  # there is only one directory
        return LsResult(entries=[FileInfo(path=each, is_dir=False, size=size) for each, size in self._sizes().items()])

    async def aread(self, file_path: str, offset: int = 0, limit: int = 2000) -> ReadResult:
        """Reads a window of lines. Bytes that are not UTF-8 become U+FFFD."""
        if file_path not in self._sizes() and not self._is_of_an_earlier_process(file_path):
            return ReadResult(error=f"'{file_path}' does not exist; use ls {OUTPUT_MOUNT}")
        lines: list[str] = []
        count = size = 0
        async for line in self._lines(file_path):
            count += 1
            if count <= offset:
                continue
            if len(lines) == limit or (lines and size + len(line) > MAX_WINDOW_CHARACTERS):
                return _window(lines, offset, total=None)
            lines.append(line)
            size += len(line)
        if not lines:
            return ReadResult(error=f"line offset {offset} is beyond the end of '{file_path}', which has {count} lines")
        return _window(lines, offset, total=count)

    async def agrep(
        self, pattern: str, path: str | None = None, glob: str | None = None, *, max_count: int | None = None
    ) -> GrepResult:
        """Finds lines that contain a literal string, in one file or in all."""
        del glob  # file names carry no meaning
        matches: list[GrepMatch] = []
        most = max_count or _GREP_LIMIT
        for file in [path] if path in self._sizes() else self._sizes():
            number = 0
            async for line in self._lines(file):
                number += 1
                if pattern not in line:
                    continue
                if len(matches) >= most:
                    return GrepResult(matches=matches, truncated=True)
                matches.append(
                    GrepMatch(path=file, line=number, text=shorten(line.rstrip("\r\n"), _MAX_MATCH_CHARACTERS))
                )
        return GrepResult(matches=matches)

    async def aglob(self, pattern: str, path: str | None = None) -> GlobResult:
        """Points to `ls`."""
        del pattern, path  # file names carry no meaning
        return GlobResult(error=f"glob does not look into {OUTPUT_MOUNT}; use ls {OUTPUT_MOUNT}")

    async def awrite(self, file_path: str, content: str) -> WriteResult:
        """Refuses."""
        del file_path, content
        return WriteResult(error=_READ_ONLY)

    async def aedit(self, file_path: str, old_string: str, new_string: str, replace_all: bool = False) -> EditResult:
        """Refuses."""
        del file_path, old_string, new_string, replace_all
        return EditResult(error=_READ_ONLY)

    def _sizes(self) -> dict[str, int]:
        return {
            f"{OUTPUT_MOUNT}/{call}.{stream}": size
            for call, output in self.scope.outputs.items()
            for stream, size in output.kept.items()
            if size
        }

    def _is_of_an_earlier_process(self, path: str) -> bool:
        call = path.removeprefix(f"{OUTPUT_MOUNT}/").rpartition(".")[0]
        resumption = self.scope.run.resumption
        return resumption is not None and call in resumption.started_calls

    async def _lines(self, path: str) -> AsyncIterator[str]:
        """Yields lines with their ends; very long lines in pieces."""
        name = path.removeprefix(f"{OUTPUT_MOUNT}/")
        stream: Stream = "stdout" if name.endswith(".stdout") else "stderr"
        call = name.removesuffix(f".{stream}")
        offset, rest = 0, b""
        while data := await self.scope.run.events.read_output(call, stream, offset, _READ_BYTES):
            offset += len(data)
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                yield line.decode(errors="replace") + "\n"
            if len(rest) > _MAX_PIECE_BYTES:
                yield rest.decode(errors="replace")
                rest = b""
        if rest:
            yield rest.decode(errors="replace")


def _window(lines: list[str], offset: int, *, total: int | None) -> ReadResult:
    end = offset + len(lines)
    return ReadResult(
        file_data=FileData(content="".join(lines), encoding="utf-8"),
        start_line=offset + 1,
        end_line=end,
        total_lines=total,
        next_offset=end if total is None or end < total else None,
    )
