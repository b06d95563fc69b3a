"""Async file operations of one sandbox; each runs in a thread, since any of them may block."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from runner_service.executors.local import reading, writing
from runner_service.executors.local.grep import encoded_pattern, grep_files, searched_directory
from runner_service.executors.local.paths import Root
from runner_service.executors.local.ripgrep import Ripgrep
from runner_service.executors.local.search import Deadline, glob_files
from runner_service.executors.protocol import BinaryFile, FileEntry, Found, GrepMatch, TextLines

T = TypeVar("T")

_CHUNK_BYTES = 256 * 1024


class Files:
    """File operations below a root, as the Protocol promises them. `ripgrep` is None where there is none."""

    def __init__(self, root: str, threads: ThreadPoolExecutor, ripgrep: Ripgrep | None) -> None:
        self._root = Root(root)
        self._threads = threads
        self._ripgrep = ripgrep

    async def list_directory(self, path: str) -> Sequence[FileEntry]:
        """Lists a directory."""
        return await self._in_thread(partial(reading.list_directory, self._root, path))

    async def read_text(self, path: str, *, offset: int = 0, limit: int = 2000) -> TextLines | BinaryFile:
        """Reads lines of a text file."""
        return await self._in_thread(partial(reading.read_text, self._root, path, offset, limit))

    async def write_text(self, path: str, text: str) -> None:
        """Writes a whole file."""
        await self._in_thread(partial(writing.write_text, self._root, path, text))

    async def edit_text(self, path: str, old: str, new: str, *, replace_all: bool = False) -> int:
        """Replaces text in a file."""
        return await self._in_thread(partial(writing.edit_text, self._root, path, old, new, replace_all=replace_all))

    async def delete(self, path: str) -> None:
        """Removes a file or a directory."""
        await self._in_thread(partial(writing.delete, self._root, path))

    async def glob(self, pattern: str, path: str = "/") -> Found[FileEntry]:
        """Finds files by name."""
        deadline = Deadline()
        return await self._search(deadline, partial(glob_files, self._root, pattern, path, deadline))

    async def grep(self, pattern: str, path: str = "/", *, include: str = "", limit: int = 1000) -> Found[GrepMatch]:
        """Finds lines by text."""
        deadline = Deadline()
        candidates = await self._candidates(pattern, path)
        look = partial(grep_files, self._root, pattern, path, include, limit, deadline, candidates)
        return await self._search(deadline, look)

    async def upload(self, path: str, chunks: AsyncIterator[bytes], *, mode: int = 0o644) -> None:
        """Writes a file of any size."""
        replacement = writing.Replacement(self._root, path, mode=mode)
        try:
            await self._in_thread(replacement.open)
            async for chunk in chunks:
                await self._in_thread(partial(replacement.write, chunk))
            await self._in_thread(replacement.commit)
        finally:
            await self._in_thread(replacement.close)

    async def download(self, path: str) -> AsyncIterator[bytes]:
        """Reads a file of any size."""
        file = await self._in_thread(partial(reading.open_regular, self._root, path))
        try:
            while chunk := await self._in_thread(partial(os.read, file.fileno(), _CHUNK_BYTES)):
                yield chunk
        finally:
            await self._in_thread(file.close)

    async def _candidates(self, pattern: str, path: str) -> Sequence[str] | None:
        encoded_pattern(pattern)
        if self._ripgrep is None:
            return None
        directory = await self._in_thread(partial(searched_directory, self._root, path))
        return await self._ripgrep.files_with(pattern, directory) if directory else None

    async def _search(self, deadline: Deadline, work: Callable[[], T]) -> T:
        return await self._in_thread(work, if_cancelled=deadline.stop)

    async def _in_thread(self, work: Callable[[], T], *, if_cancelled: Callable[[], None] = lambda: None) -> T:
        """Runs blocking work in a thread. Cancellation waits for the thread, so that nothing continues afterwards."""
        result = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            await asyncio.wait([result])
        except asyncio.CancelledError:
            if_cancelled()
            await asyncio.wait([result])
            result.exception()
            raise
        return result.result()
