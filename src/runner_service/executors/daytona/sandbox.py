"""Implements the `Sandbox` protocol on a Daytona sandbox."""

import base64
import secrets
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress

from runner_service.executors.daytona.changes import DaytonaTracking, WriteMark
from runner_service.executors.daytona.commands import CommandRunner
from runner_service.executors.daytona.remote_sandbox import RemoteSandbox
from runner_service.executors.daytona.session import ExecutionSession
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

_PART_BYTES = 8 * 1024 * 1024
_INLINE_BYTES = 256 * 1024


class DaytonaSandbox:
    """One execution's view of a Daytona sandbox. If `is_interrupted()`, cancellation leaves commands running."""

    def __init__(
        self,
        remote: RemoteSandbox,
        session: ExecutionSession,
        commands: CommandRunner,
        is_interrupted: Callable[[], bool],
        *,
        scan_wait: float,
    ) -> None:
        self._remote_sandbox = remote
        self._session = session
        self._followed = commands
        self._is_interrupted = is_interrupted
        self._writes = WriteMark()
        self._scan_wait = scan_wait

    @property
    def root(self) -> str:
        """The working directory of the snapshot, by its real path."""
        return self._session.root

    @property
    def tracking(self) -> DaytonaTracking:
        """Implements `Sandbox`."""
        return DaytonaTracking(self._session, self._remote_sandbox, self._writes, wait=self._scan_wait)

    @property
    def keeps_commands(self) -> bool:
        """True: the sandbox outlives the service."""
        return True

    async def run(self, command: Command) -> CommandResult:
        """Runs a command."""
        return await self._run(command, resumes=False)

    async def resume(self, command: Command) -> CommandResult:
        """Resumes a command that an earlier process of the service started."""
        return await self._run(command, resumes=True)

    async def list_directory(self, path: str) -> Sequence[FileEntry]:
        """Lists a directory."""
        return [FileEntry(**each) for each in await self._session.file_operation("list", path=path)]

    async def read_text(
        self, path: str, *, offset: int = 0, limit: int = 2000, agent: str = ""
    ) -> TextLines | BinaryFile:
        """Reads lines of a text file."""
        content = await self._session.file_operation("read", path=path, offset=offset, limit=limit, agent=agent)
        return TextLines(**content["fields"]) if content["is_text"] else BinaryFile(**content["fields"])

    async def write_text(self, path: str, text: str, *, agent: str = "") -> None:
        """Writes a whole file."""
        with self._writes.marked():
            await self._session.file_operation("write", path=path, text=text, agent=agent)

    async def edit_text(self, path: str, old: str, new: str, *, replace_all: bool = False, agent: str = "") -> int:
        """Replaces text in a file."""
        arguments = {"path": path, "old": old, "new": new, "replace_all": replace_all, "agent": agent}
        with self._writes.marked():
            return int(await self._session.file_operation("edit", **arguments))

    async def delete(self, path: str) -> None:
        """Removes a file or a directory."""
        with self._writes.marked():
            await self._session.file_operation("delete", path=path)

    async def glob(self, pattern: str, path: str = "/", *, include_ignored: bool = False) -> Found[FileEntry]:
        """Finds files by name."""
        found = await self._session.file_operation("glob", pattern=pattern, path=path, include_ignored=include_ignored)
        return Found([FileEntry(**each) for each in found.pop("items")], **found)

    async def grep(
        self, pattern: str, path: str = "/", *, include: str = "", limit: int = 1000, include_ignored: bool = False
    ) -> Found[GrepMatch]:
        """Finds lines by text."""
        query = {"pattern": pattern, "path": path, "include": include, "limit": limit}
        found = await self._session.file_operation("grep", **query, include_ignored=include_ignored)
        return Found([GrepMatch(**each) for each in found.pop("items")], **found)

    async def upload(self, path: str, chunks: AsyncIterator[bytes], *, mode: int = 0o644) -> None:
        """Uploads a file of any size, in parts that are safe to resend, joined in the sandbox."""
        with self._writes.marked():
            await self._upload(path, chunks, mode)

    async def _upload(self, path: str, chunks: AsyncIterator[bytes], mode: int) -> None:
        transfer = self._session.transfer_path(secrets.token_hex(8))
        uploaded: list[str] = []
        try:
            async for part, is_all in _parts(chunks):
                if is_all and len(part) <= _INLINE_BYTES:
                    data = base64.b64encode(part).decode()
                    await self._session.file_operation("upload", path=path, data=data, mode=mode)
                    return
                uploaded.append(f"{transfer}.{len(uploaded)}")
                await self._remote_sandbox.upload(uploaded[-1], part)
            await self._session.file_operation("upload", path=path, transfers=uploaded, mode=mode)
        finally:
            if uploaded:
                await self._discard(uploaded)

    async def download(self, path: str) -> AsyncIterator[bytes]:
        """Downloads a file of any size, from a copy made when called."""
        transfer = self._session.transfer_path(secrets.token_hex(8))
        is_inline = False
        try:
            answer = await self._session.file_operation("download", path=path, transfer=transfer)
            if is_inline := "data" in answer:
                for chunk in _chunks(base64.b64decode(answer["data"])):
                    yield chunk
                return
            async for chunk in self._remote_sandbox.download(transfer, answer["size"]):
                yield chunk
        finally:
            if not is_inline:
                await self._discard([transfer])

    async def _run(self, command: Command, *, resumes: bool) -> CommandResult:
        return await self._followed.run(command, keep=self._is_interrupted, resumes=resumes)

    async def _discard(self, transfers: Sequence[str]) -> None:
        with suppress(SandboxError):
            await self._session.file_operation("discard", transfers=list(transfers))


async def _parts(chunks: AsyncIterator[bytes]) -> AsyncIterator[tuple[bytes, bool]]:
    """Joins chunks into parts, of which there is at least one; says of each whether it is all there is."""
    gathered = bytearray()
    is_first = True
    async for chunk in chunks:
        gathered += chunk
        while len(gathered) > _PART_BYTES:
            yield bytes(gathered[:_PART_BYTES]), False
            del gathered[:_PART_BYTES]
            is_first = False
    yield bytes(gathered), is_first


def _chunks(data: bytes) -> Sequence[bytes]:
    size = 256 * 1024
    return [data[start : start + size] for start in range(0, len(data), size)]
