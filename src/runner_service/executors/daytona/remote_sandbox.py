"""Calls into one Daytona sandbox: short scripts, file transfers, restart when it was stopped."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import TYPE_CHECKING

from runner_service.executors.daytona.failures import Failure, FailureKind, as_sandbox_error, classify
from runner_service.executors.daytona.manager import Notify, SandboxManager
from runner_service.executors.daytona.retries import CallFailedError, retry

if TYPE_CHECKING:
    from daytona import AsyncSandbox

_CHUNK_BYTES = 256 * 1024
_STALL_TIMEOUT_SECONDS = 60
_TRANSFER_TIMEOUT_SECONDS = 300.0
_RECOVERY_BACKOFF_SECONDS = 0.3
_MAX_DOWNLOAD_ATTEMPTS = 8
_TRUNCATED = Failure(FailureKind.TRANSIENT)


class RemoteSandbox:
    """One Daytona sandbox. `execute` raises as the SDK does; everything else as the Protocol says."""

    def __init__(self, manager: SandboxManager, handle: "AsyncSandbox", notify: Notify) -> None:
        self._manager = manager
        self._handle = handle
        self._notify = notify
        self._reviving = asyncio.Lock()
        self.name = handle.name
        self.id = handle.id

    @property
    def handle(self) -> "AsyncSandbox":
        """The SDK's object, as last read."""
        return self._handle

    async def execute(self, script: str, variables: dict[str, str], seconds: int) -> str:
        """Runs a short script once and returns its output. Not in the working directory, which may be gone."""
        answer = await self._handle.process.exec(script, cwd="/", env=variables, timeout=seconds)
        return str(answer.result)

    async def working_directory(self) -> str:
        """Returns the working directory of the snapshot. Raises SandboxError."""
        return str(await retry("the directory", self._handle.get_work_dir, attempt_timeout=15.0, total_timeout=60.0))

    async def upload(self, path: str, data: bytes) -> None:
        """Uploads a file. Raises SandboxError."""

        async def attempt() -> None:
            await self._handle.fs.upload_file(data, path, timeout=_STALL_TIMEOUT_SECONDS)

        while True:
            try:
                await retry(
                    "an upload",
                    attempt,
                    attempt_timeout=_TRANSFER_TIMEOUT_SECONDS,
                    total_timeout=_TRANSFER_TIMEOUT_SECONDS,
                    handled=(FailureKind.MISSING, FailureKind.BUSY),
                )
            except CallFailedError:
                await self.revive()
            else:
                return

    async def download(self, path: str, size: int) -> AsyncIterator[bytes]:
        """Downloads a file that does not change, resuming a transfer that breaks off.

        Raises:
            SandboxError: it broke off too often.
        """
        done = attempts = 0
        while done < size:
            failure = _TRUNCATED
            try:
                async with aclosing(self._chunks(path, skip=done)) as chunks:
                    async for chunk in chunks:
                        done += len(chunk)
                        yield chunk
            except Exception as error:  # the SDK's classes are not loaded here; `classify` knows them
                if (handled := classify(error)) is None:
                    raise
                failure = handled
            if done < size:
                attempts += 1
                await self._recover(failure, attempts)

    async def _recover(self, failure: Failure, attempts: int) -> None:
        if attempts > _MAX_DOWNLOAD_ATTEMPTS:
            raise as_sandbox_error(failure, "a download")
        if failure.kind is FailureKind.MISSING:
            await self.revive()
        await asyncio.sleep(max(_RECOVERY_BACKOFF_SECONDS * attempts, failure.retry_after))

    async def _chunks(self, path: str, *, skip: int) -> AsyncGenerator[bytes, None]:
        stream = await self._handle.fs.download_file_stream(path, timeout=_STALL_TIMEOUT_SECONDS)
        async for data in stream:
            rest, skip = data[skip:], max(0, skip - len(data))
            for start in range(0, len(rest), _CHUNK_BYTES):
                yield rest[start : start + _CHUNK_BYTES]

    async def revive(self) -> None:
        """Starts the sandbox if it is stopped. Raises SandboxError, SandboxLostError."""
        async with self._reviving:
            before = self._handle
            self._handle = await self._manager.revive(self.id, self._notify)
            if before.state == self._handle.state:
                await asyncio.sleep(_RECOVERY_BACKOFF_SECONDS)

    async def renew_lease(self) -> None:
        """Renews the lease and postpones auto-stop. Raises SandboxError."""
        await self._manager.renew_lease(self._handle, self._handle.labels)
        await retry("a sign of life", self._handle.refresh_activity, attempt_timeout=15.0, total_timeout=60.0)
