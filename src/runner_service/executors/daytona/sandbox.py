"""The Protocol's sandbox, in a box."""

import base64
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress

from runner_service.executors.daytona.box import Box
from runner_service.executors.daytona.following import Followed
from runner_service.executors.daytona.session import Attendance
from runner_service.executors.protocol import (
    BinaryFile,
    Command,
    CommandResult,
    FileEntry,
    Found,
    GrepMatch,
    SandboxError,
    TextLines,
)

_SENT_AT_ONCE = 8 * 1024 * 1024


class DaytonaSandbox:
    """One execution's view of a box. `is_interrupted` says whether a cancellation leaves its commands running."""

    def __init__(
        self, box: Box, attendance: Attendance, followed: Followed, is_interrupted: Callable[[], bool]
    ) -> None:
        self._box = box
        self._attendance = attendance
        self._followed = followed
        self._is_interrupted = is_interrupted

    @property
    def root(self) -> str:
        """The working directory of the snapshot, by its real path."""
        return self._attendance.root

    @property
    def keeps_commands(self) -> bool:
        """Yes: the box does not end with the service."""
        return True

    async def run(self, command: Command) -> CommandResult:
        """Runs a command."""
        return await self._follow(command, resumes=False)

    async def resume(self, command: Command) -> CommandResult:
        """Goes on with a command that an earlier process of the service has started."""
        return await self._follow(command, resumes=True)

    async def list_directory(self, path: str) -> Sequence[FileEntry]:
        """Lists a directory."""
        return [FileEntry(**each) for each in await self._attendance.operate("list", path=path)]

    async def read_text(self, path: str, *, offset: int = 0, limit: int = 2000) -> TextLines | BinaryFile:
        """Reads lines of a text file."""
        content = await self._attendance.operate("read", path=path, offset=offset, limit=limit)
        return TextLines(**content["fields"]) if content["is_text"] else BinaryFile(**content["fields"])

    async def write_text(self, path: str, text: str) -> None:
        """Writes a whole file."""
        await self._attendance.operate("write", path=path, text=text)

    async def edit_text(self, path: str, old: str, new: str, *, replace_all: bool = False) -> int:
        """Replaces text in a file."""
        return int(await self._attendance.operate("edit", path=path, old=old, new=new, replace_all=replace_all))

    async def delete(self, path: str) -> None:
        """Removes a file or a directory."""
        await self._attendance.operate("delete", path=path)

    async def glob(self, pattern: str, path: str = "/") -> Found[FileEntry]:
        """Finds files by name."""
        found = await self._attendance.operate("glob", pattern=pattern, path=path)
        return Found([FileEntry(**each) for each in found.pop("items")], **found)

    async def grep(self, pattern: str, path: str = "/", *, include: str = "", limit: int = 1000) -> Found[GrepMatch]:
        """Finds lines by text."""
        found = await self._attendance.operate("grep", pattern=pattern, path=path, include=include, limit=limit)
        return Found([GrepMatch(**each) for each in found.pop("items")], **found)

    async def upload(self, path: str, chunks: AsyncIterator[bytes], *, mode: int = 0o644) -> None:
        """Writes a file of any size: sent in parts, each of which can be sent again, then put together in the box."""
        transfer = await self._attendance.transfer_path(secrets.token_hex(8))
        parts: list[str] = []
        try:
            async for data in _large(chunks):
                parts.append(f"{transfer}.{len(parts)}")
                await self._box.send(parts[-1], data)
            await self._attendance.operate("take_in", path=path, transfers=parts, mode=mode)
        finally:
            await self._drop(parts)

    async def download(self, path: str) -> AsyncIterator[bytes]:
        """Reads a file of any size, as it is now."""
        transfer = await self._attendance.transfer_path(secrets.token_hex(8))
        try:
            answer = await self._attendance.operate("hand_out", path=path, transfer=transfer)
            if "data" in answer:
                for piece in _pieces(base64.b64decode(answer["data"])):
                    yield piece
                return
            async for piece in self._box.fetch(transfer, answer["size"]):
                yield piece
        finally:
            await self._drop([transfer])

    async def _follow(self, command: Command, *, resumes: bool) -> CommandResult:
        return await self._followed.run(command, keep=self._is_interrupted, resumes=resumes)

    async def _drop(self, transfers: Sequence[str]) -> None:
        with suppress(SandboxError):
            await self._attendance.operate("drop", transfers=list(transfers))


async def _large(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Gathers chunks into large ones."""
    gathered = bytearray()
    async for chunk in chunks:
        gathered += chunk
        while len(gathered) >= _SENT_AT_ONCE:
            yield bytes(gathered[:_SENT_AT_ONCE])
            del gathered[:_SENT_AT_ONCE]
    if gathered:
        yield bytes(gathered)


def _pieces(data: bytes) -> Sequence[bytes]:
    size = 256 * 1024
    return [data[start : start + size] for start in range(0, len(data), size)]
