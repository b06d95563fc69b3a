"""What changed in the files of a session, for the service: found here, fetched in one response, and put back here."""

import asyncio
import base64
import shutil
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from runner_service.executors.change_stream import encode_change, state_fields, state_in
from runner_service.executors.local.tracking import LocalTracking
from runner_service.executors.protocol import FileError
from runner_service.executors.tracking import FoundChange, Restoration, Restorer, TrackingError

_INLINE_BYTES = 512 * 1024
_MAX_SENT_BYTES = 256 * 1024 * 1024
"""Of contents in one response; what is changed beyond is listed without its content."""

_COMPRESSION_LEVEL = 1


class SessionChanges:
    """Finds the changes of one session. The changes of a response are kept until the service says that it has them."""

    def __init__(self, tracking: LocalTracking, transfers: Path, name: str) -> None:
        self._tracking = tracking
        self._path = transfers / f"{name}.changes"
        self._has_begun = False
        self._turn = ""
        self._answering: asyncio.Task[dict[str, Any]] | None = None
        self._sent_bytes = 0

    async def respond(self, request: dict[str, Any]) -> dict[str, Any]:
        """Answers a request; one of the same turn is not carried out again. Raises SandboxError."""
        if request["turn"] != self._turn or self._answering is None:
            if self._answering and not self._answering.done():
                self._answering.cancel()
                await asyncio.wait([self._answering])
            if request["received"] == self._turn:
                self._path.unlink(missing_ok=True)
                self._sent_bytes = 0
            self._turn = request["turn"]
            self._answering = asyncio.create_task(self._answer(request["what"]))
        done, _ = await asyncio.wait([self._answering], timeout=request["wait"])
        return self._answering.result() if done else {"is_pending": True}

    def forget(self) -> None:
        """Removes what is kept in files."""
        if self._answering:
            self._answering.cancel()
        self._path.unlink(missing_ok=True)
        shutil.rmtree(self._tracking.directory, ignore_errors=True)

    async def _answer(self, what: str) -> dict[str, Any]:
        failure = ""
        try:
            if what == "begin":
                await self._begin()
                return {"failure": ""}
            with self._path.open("ab") as file:
                await self._find(what, file)
        except (TrackingError, OSError) as error:
            failure = str(error)
        return {"failure": failure, **await asyncio.to_thread(self._found)}

    async def _begin(self) -> None:
        """Remembers the files, unless that was done for an earlier process of the service."""
        if not self._has_begun:
            await self._tracking.written(_ignore)
            await self._tracking.begin()
            self._has_begun = True

    async def _find(self, what: str, file: BinaryIO) -> None:
        """Appends changes to a file, as one compressed stream."""
        compressor = zlib.compressobj(_COMPRESSION_LEVEL)

        async def append(change: FoundChange) -> None:
            self._sent_bytes += sum(map(len, change.contents.values()))
            parts = encode_change(change, with_contents=self._sent_bytes <= _MAX_SENT_BYTES)
            await asyncio.to_thread(_append, file, compressor.compress, parts)

        try:
            await self._tracking.written(append)
            if what == "scan":
                if not self._has_begun:
                    raise TrackingError("the sandbox was stopped or restarted while the execution ran")
                await self._tracking.scan(append)
        finally:
            file.write(compressor.flush())

    def _found(self) -> dict[str, Any]:
        """Returns the changes, or where they are if that is too much for a response."""
        try:
            size = self._path.stat().st_size
        except FileNotFoundError:
            return {}
        if size > _INLINE_BYTES:
            return {"transfer": str(self._path), "size": size}
        return {"data": base64.b64encode(self._path.read_bytes()).decode()}


async def restored(restorer: Restorer, request: dict[str, Any]) -> Any:
    """Does what the restorer of the service asks for. Raises FileError, SandboxError."""
    if request["what"] == "states":
        states = await restorer.states(request["paths"])
        return [state_fields(each) for each in states]
    if request["what"] == "space":
        return await restorer.require_space(request["size"])
    for item in request["items"]:
        restoration = await asyncio.to_thread(_restoration, item)
        with suppress(FileError):
            [now] = await restorer.states([restoration.path])
            if now == restoration.wanted:  # by an earlier request, whose response was lost
                continue
        await restorer.restore([restoration])
    return None


async def _ignore(change: FoundChange) -> None:
    """It is part of the preparation of the sandbox."""
    del change


def _append(file: BinaryIO, compress: Callable[[bytes], bytes], parts: Any) -> None:
    file.writelines(compress(part) for part in parts)


def _restoration(item: dict[str, Any]) -> Restoration:
    data = base64.b64decode(item["data"])
    return Restoration(item["path"], state_in(item["expected"]), state_in(item["wanted"]), data)
