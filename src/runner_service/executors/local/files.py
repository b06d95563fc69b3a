"""Async file operations of one sandbox; each runs in a thread, since any of them may block."""

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from functools import partial
from typing import TypeVar

from runner_service.executors.local import reading, writing
from runner_service.executors.local.confinement.file_rules import FileRules
from runner_service.executors.local.deadline import Deadline, Search
from runner_service.executors.local.glob_search import glob_files
from runner_service.executors.local.grep import Query, encoded_pattern, grep_files, searched_directory
from runner_service.executors.local.paths import Root
from runner_service.executors.local.replacement import Replacement
from runner_service.executors.local.ripgrep import Ripgrep
from runner_service.executors.local.threads import FileThreads
from runner_service.executors.local.write_recorder import WriteRecorder
from runner_service.executors.protocol import BinaryFile, FileEntry, Found, GrepMatch, TextLines

T = TypeVar("T")

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 256 * 1024
_THREADS_PER_SANDBOX = 4
_STOP_TIMEOUT_SECONDS = 5.0


class Files:
    """File operations below a root, as the Protocol promises them. `ripgrep` and `rules` may be None."""

    def __init__(
        self, root: str, threads: FileThreads, ripgrep: Ripgrep | None, rules: FileRules | None = None
    ) -> None:
        self._root = Root(root, rules)
        self._threads = threads
        self._ripgrep = ripgrep
        self._slots = asyncio.Semaphore(_THREADS_PER_SANDBOX)
        self._seen = writing.SeenFiles()
        self._recorder = WriteRecorder()

    async def list_directory(self, path: str) -> Sequence[FileEntry]:
        """Lists a directory."""
        deadline = Deadline()
        return await self._run(deadline, partial(reading.list_directory, self._root, path, deadline))

    async def read_text(
        self, path: str, *, offset: int = 0, limit: int = 2000, agent: str = ""
    ) -> TextLines | BinaryFile:
        """Reads lines of a text file."""
        deadline = Deadline()

        def read() -> TextLines | BinaryFile:
            self._seen.record(self._root, path, agent)  # before: a change during the read is then noticed
            return reading.read_text(self._root, path, offset, limit, deadline)

        return await self._run(deadline, read)

    async def write_text(self, path: str, text: str, *, agent: str = "") -> None:
        """Writes a whole file."""
        change = self._change(path, agent)
        await self._run(change.deadline, partial(writing.write_text, change, text))

    async def edit_text(self, path: str, old: str, new: str, *, replace_all: bool = False, agent: str = "") -> int:
        """Replaces text in a file."""
        change = self._change(path, agent)
        edit = partial(writing.edit_text, change, old, new, replace_all=replace_all)
        return await self._run(change.deadline, edit)

    async def delete(self, path: str) -> None:
        """Removes a file or a directory."""
        deadline = Deadline()
        await self._run(deadline, partial(writing.delete, self._root, path, deadline))

    async def glob(self, pattern: str, path: str = "/", *, include_ignored: bool = False) -> Found[FileEntry]:
        """Finds files by name."""
        search = Search()
        find = partial(glob_files, self._root, pattern, path, search, include_ignored=include_ignored)
        return await self._run(search, find)

    async def grep(
        self, pattern: str, path: str = "/", *, include: str = "", limit: int = 1000, include_ignored: bool = False
    ) -> Found[GrepMatch]:
        """Finds lines by text."""
        search = Search()
        query = Query(pattern, path, include, limit, include_ignored)
        candidates = await self._candidates(query)
        return await self._run(search, partial(grep_files, self._root, query, search, candidates))

    async def upload(self, path: str, chunks: AsyncIterator[bytes], *, mode: int = 0o644) -> None:
        """Writes a file of any size."""
        replacement = Replacement(self._root, path, mode=mode)
        try:
            await self._run(Deadline(), replacement.open)
            async for chunk in chunks:
                await self._run(Deadline(), partial(replacement.write, chunk))
            change = self._change(path)
            await self._run(change.deadline, partial(writing.commit_upload, change, replacement))
        finally:
            await self._run(Deadline(), replacement.close)

    async def download(self, path: str) -> AsyncIterator[bytes]:
        """Reads a file of any size."""
        file = await self._run(Deadline(), partial(reading.open_regular, self._root, path))
        try:
            while chunk := await self._run(Deadline(), partial(os.read, file.fileno(), _CHUNK_BYTES)):
                yield chunk
        finally:
            await self._run(Deadline(), file.close)

    def _change(self, path: str, agent: str = "") -> writing.Change:
        return writing.Change(self._root, path, Deadline(), self._seen, agent, self._recorder)

    async def _candidates(self, query: Query) -> Iterable[str] | None:
        encoded_pattern(query.pattern)
        if self._ripgrep is None:
            return None
        directory = await self._run(Deadline(), partial(searched_directory, self._root, query.path))
        if directory is None:
            return None
        return await self._ripgrep.files_with(query.pattern, directory, include_ignored=query.include_ignored)

    async def _run(self, deadline: Deadline, work: Callable[[], T]) -> T:
        """Runs blocking work in a thread. Cancellation stops it and waits, so that nothing continues afterwards.

        One sandbox uses some of the threads at a time: however long it is kept waiting, others have the rest.
        """
        async with self._slots:
            result = self._threads.run(work)
            try:
                await asyncio.wait([result])
            except asyncio.CancelledError:
                deadline.stop()
                await self._abandon(result)
                raise
            return result.result()

    async def _abandon(self, result: asyncio.Future[T]) -> None:
        await asyncio.wait([result], timeout=_STOP_TIMEOUT_SECONDS)
        if not result.done():  # the file system does not answer, and nothing ends a system call of a thread
            logger.warning("file_operation_abandoned seconds=%g", _STOP_TIMEOUT_SECONDS)
        elif not result.cancelled():
            result.exception()
