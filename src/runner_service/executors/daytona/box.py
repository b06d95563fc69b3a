"""A box that somebody works in: short calls into it, files in and out, and back to life when it was stopped."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING

from runner_service.executors.daytona.failures import Failure, Kind, classify, ended
from runner_service.executors.daytona.retries import CallFailedError, patiently
from runner_service.executors.daytona.sandboxes import Boxes, Notify

if TYPE_CHECKING:
    from daytona import AsyncSandbox

_PIECE = 256 * 1024
_STALL_SECONDS = 60
_TRANSFER_PATIENCE = 300.0
_PAUSE_IF_MISTAKEN = 0.3
_MOST_ATTEMPTS = 8
_BROKEN_OFF = Failure(Kind.TRANSIENT)


class Box:
    """One box. `execute` raises as the SDK does; everything else as the Protocol says."""

    def __init__(self, boxes: Boxes, handle: "AsyncSandbox", notify: Notify) -> None:
        self._boxes = boxes
        self._handle = handle
        self._notify = notify
        self._reviving = asyncio.Lock()
        self.name = handle.name
        self.id = handle.id

    @property
    def handle(self) -> "AsyncSandbox":
        """The SDK's own, as it was last seen."""
        return self._handle

    async def execute(self, script: str, variables: dict[str, str], seconds: int) -> str:
        """Runs a short script once, outside of the working directory, which may be gone; returns what it printed."""
        answer = await self._handle.process.exec(script, cwd="/", env=variables, timeout=seconds)
        return str(answer.result)

    async def working_directory(self) -> str:
        """Returns where the snapshot says that work is done. Raises SandboxError."""
        return str(await patiently("the directory", self._handle.get_work_dir, each=15.0, altogether=60.0))

    async def send(self, path: str, data: bytes) -> None:
        """Writes a file in the box. Raises SandboxError."""

        async def attempt() -> None:
            await self._handle.fs.upload_file(data, path, timeout=_STALL_SECONDS)

        while True:
            try:
                await patiently(
                    "an upload",
                    attempt,
                    each=_TRANSFER_PATIENCE,
                    altogether=_TRANSFER_PATIENCE,
                    known=(Kind.MISSING, Kind.BUSY),
                )
            except CallFailedError:
                await self.revive()
            else:
                return

    async def fetch(self, path: str, size: int) -> AsyncIterator[bytes]:
        """Reads a file of the box that does not change, in pieces; when one breaks off, goes on there.

        Raises:
            SandboxError: it breaks off too often.
        """
        done = attempts = 0
        while done < size:
            failure = _BROKEN_OFF
            try:
                async with aclosing(self._pieces(path, skip=done)) as pieces:
                    async for piece in pieces:
                        done += len(piece)
                        yield piece
            except Exception as error:  # the SDK's classes are not loaded here; `classify` knows them
                if (known := classify(error)) is None:
                    raise
                failure = known
            if done < size:
                attempts += 1
                await self._recover(failure, attempts)

    async def _recover(self, failure: Failure, attempts: int) -> None:
        if attempts > _MOST_ATTEMPTS:
            raise ended(failure, "a download")
        if failure.kind is Kind.MISSING:
            await self.revive()
        await asyncio.sleep(max(_PAUSE_IF_MISTAKEN * attempts, failure.retry_after))

    async def _pieces(self, path: str, *, skip: int) -> AsyncGenerator[bytes, None]:
        stream = await self._handle.fs.download_file_stream(path, timeout=_STALL_SECONDS)
        async for chunk in stream:
            passed, skip = chunk[skip:], max(0, skip - len(chunk))
            for start in range(0, len(passed), _PIECE):
                yield passed[start : start + _PIECE]

    async def revive(self) -> None:
        """Makes sure that the box runs, after it was not found. Raises SandboxError, BoxLostError."""
        async with self._reviving:
            before = self._handle
            self._handle = await self._boxes.revive(self.id, self._notify)
            if before.state == self._handle.state:
                await asyncio.sleep(_PAUSE_IF_MISTAKEN)

    async def renew(self) -> None:
        """Renews the lease, and lets Daytona know that the box is in use. Raises SandboxError."""
        await self._boxes.renew(self._handle, self._handle.labels)
        await patiently("a sign of life", self._handle.refresh_activity, each=15.0, altogether=60.0)
