"""Tracks and puts back files of a cloud sandbox, by its attendant. Each step is one request, if contents are small."""

import asyncio
import base64
import secrets
import zlib
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any

from runner_service.executors.change_stream import ChangeReader, state_fields, state_in
from runner_service.executors.completion import run_to_completion
from runner_service.executors.daytona.remote_sandbox import RemoteSandbox
from runner_service.executors.daytona.session import CLOSE_TIMEOUT_SECONDS, ExecutionSession
from runner_service.executors.protocol import SandboxError, SandboxLostError
from runner_service.executors.tracking import MAX_CHANGES, FileState, Handle, Restoration, TrackingError

_RESPONSE_TIMEOUT_SECONDS = 20.0
_MAX_SCAN_WAITS = 6
_CHUNK_BYTES = 256 * 1024
_MAX_CHANGES = 4 * MAX_CHANGES  # of several scans, after a crash
_MAX_TRANSFER_BYTES = 512 * 1024 * 1024


class WriteMark:
    """Whether file tools may have written since that was last asked."""

    def __init__(self) -> None:
        self._is_set = False

    @contextmanager
    def marked(self) -> Iterator[None]:
        """Notes that one may have written in the block."""
        try:
            yield
        finally:
            self._is_set = True

    def take(self) -> bool:
        """Returns whether one may have, and forgets it."""
        taken, self._is_set = self._is_set, False
        return taken


class DaytonaTracking:
    """Implements `Tracking`. What was remembered outlives the process, so that a resumed execution misses nothing."""

    place = ""
    is_quiet = False  # nobody else works in the sandbox

    def __init__(self, session: ExecutionSession, remote: RemoteSandbox, writes: WriteMark, *, wait: float) -> None:
        self._session = session
        self._remote = remote
        self._writes = writes
        self._wait = wait
        self._received = ""

    async def begin(self) -> None:
        """Implements `Tracking`."""
        await self._request("begin")

    async def written(self, handle: Handle) -> None:
        """Implements `Tracking`. Asks the sandbox only if file tools may have written."""
        if self._writes.take():
            await self._pass_on("written", handle)

    async def scan(self, handle: Handle) -> None:
        """Implements `Tracking`."""
        await self._pass_on("scan", handle)

    async def end(self) -> None:
        """Implements `Tracking`: the end of the session forgets it."""

    async def _pass_on(self, what: str, handle: Handle) -> None:
        turn, response = await self._request(what)
        reader = ChangeReader(handle, max_changes=_MAX_CHANGES)
        async for chunk in self._content(response):
            await reader.feed(chunk)
        self._received = turn
        if response["failure"]:
            raise TrackingError(str(response["failure"]))

    async def _request(self, what: str) -> tuple[str, dict[str, Any]]:
        """Asks until the attendant is done. What an earlier response held comes again, unless it was received."""
        turn = secrets.token_hex(8)
        for _ in range(_MAX_SCAN_WAITS):
            response = await self._session.request(
                "changes",
                what=what,
                turn=turn,
                received=self._received,
                wait=self._wait,
                response_timeout=_RESPONSE_TIMEOUT_SECONDS,
            )
            if not response.get("is_pending"):
                if what == "begin" and response["failure"]:
                    raise TrackingError(str(response["failure"]))
                return turn, response
        raise TrackingError(f"looking for changes took more than {_MAX_SCAN_WAITS * self._wait:g} s")

    async def _content(self, response: dict[str, Any]) -> AsyncIterator[bytes]:
        try:
            if "transfer" in response:
                size = int(response["size"])
                if size > _MAX_TRANSFER_BYTES:
                    raise TrackingError(f"{size >> 20} MiB of changes at once are too much")
                decompressor = Decompressor()
                async for part in self._remote.download(str(response["transfer"]), size):
                    for chunk in decompressor.chunks(part):
                        yield chunk
            elif "data" in response:
                for chunk in Decompressor().chunks(base64.b64decode(response["data"])):
                    yield chunk
        except (ValueError, zlib.error) as error:
            raise TrackingError("the sandbox sent something unreadable") from error


class Decompressor:
    """Decompresses streams that follow each other, in chunks of at most 256 KiB."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj()

    def chunks(self, data: bytes) -> Iterator[bytes]:
        """Yields what the next data holds. Raises zlib.error."""
        while data:
            yield self._stream.decompress(data, _CHUNK_BYTES)
            data = self._stream.unconsumed_tail
            if self._stream.eof:
                data, self._stream = self._stream.unused_data, zlib.decompressobj()


class DaytonaRestorer:
    """Implements `Restorer`."""

    def __init__(self, session: ExecutionSession) -> None:
        self._session = session

    async def states(self, paths: Sequence[str]) -> Sequence[FileState | None]:
        """Implements `Restorer`."""
        states = await self._request("states", paths=list(paths))
        if len(states) != len(paths):
            raise SandboxError("the sandbox sent something unreadable")
        try:
            return [state_in(each) for each in states]
        except ValueError as error:
            raise SandboxError("the sandbox sent something unreadable") from error

    async def restore(self, restorations: Sequence[Restoration]) -> None:
        """Implements `Restorer`."""
        items = await asyncio.to_thread(lambda: [*map(_encoded, restorations)])
        await self._request("files", items=items)

    async def require_space(self, size: int) -> None:
        """Implements `Restorer`."""
        await self._request("space", size=size)

    async def _request(self, what: str, **fields: Any) -> Any:
        number = secrets.token_hex(16)
        return (await self._session.request("restore", number=number, what=what, **fields))["result"]


@asynccontextmanager
async def restorer_in(session: ExecutionSession, root: str) -> AsyncIterator[DaytonaRestorer]:
    """Puts files below `root` back by a session of its own, which ends with the block. Raises SandboxLostError."""
    try:
        if session.root != root:
            raise SandboxLostError(f"its files were in {root}, and those of the sandbox are in {session.root}")
        yield DaytonaRestorer(session)
    finally:
        with suppress(SandboxError):  # what it leaves ends with the attendant
            await run_to_completion(session.request("remove", response_timeout=CLOSE_TIMEOUT_SECONDS))


def _encoded(restoration: Restoration) -> dict[str, Any]:
    expected, wanted = (state_fields(each) for each in (restoration.expected, restoration.wanted))
    data = base64.b64encode(restoration.data).decode()
    return {"path": restoration.path, "expected": expected, "wanted": wanted, "data": data}
