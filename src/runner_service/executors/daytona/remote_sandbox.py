"""Calls into one Daytona sandbox: short scripts, file transfers, restart when it was stopped."""

import asyncio
import itertools
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

from runner_service.executors.daytona.config import Notify
from runner_service.executors.daytona.failures import (
    STATE_DEPENDENT,
    Failure,
    FailureKind,
    as_file_error,
    as_toolbox_error,
    classify,
    retry_delay,
)
from runner_service.executors.daytona.manager import SandboxManager
from runner_service.executors.daytona.retries import CallFailedError, retry

if TYPE_CHECKING:
    from daytona import AsyncSandbox

T = TypeVar("T")

_CHUNK_BYTES = 256 * 1024
_STALL_TIMEOUT_SECONDS = 60
_TRANSFER_TIMEOUT_SECONDS = 300.0
_RECOVERY_BACKOFF_SECONDS = 0.3
_MAX_DOWNLOAD_ATTEMPTS = 8
_TRUNCATED = Failure(FailureKind.TRANSIENT)
_ABOUT_THE_DISK = frozenset({FailureKind.NO_SPACE, FailureKind.NOT_PERMITTED})


class RemoteSandbox:
    """One Daytona sandbox. What the toolbox or its proxy refuses is checked against the state of the sandbox."""

    def __init__(
        self, manager: SandboxManager, handle: "AsyncSandbox", notify: Notify, *, is_new: bool = False
    ) -> None:
        self._manager = manager
        self._handle = handle
        self._notify = notify
        self._reviving = asyncio.Lock()
        self.name = handle.name
        self.id = handle.id
        self.is_new = is_new
        self.is_fenced = False
        """True once it has refused this replica, since a later owner of the execution uses it."""

    def note_fenced(self) -> None:
        """Leaves the sandbox to the later owner of the execution."""
        self.is_fenced = True

    async def execute(
        self,
        operation: str,
        script: str,
        variables: dict[str, str],
        seconds: int,
        *,
        margin: int,
        total_timeout: float,
        cwd: str = "/",
    ) -> str:
        """Runs a short script, possibly more than once, and returns its output.

        It runs in `cwd`; empty is the working directory of the snapshot, which may be gone. The server ends it after
        `seconds`, and its answer may take `margin` more.

        Raises:
            SandboxError: it could not be run within `total_timeout` seconds.
        """

        async def attempt() -> str:
            answer = await self._handle.process.exec(script, cwd=cwd or None, env=variables, timeout=seconds)
            return str(answer.result)

        return await self._call(operation, attempt, attempt_timeout=seconds + margin, total_timeout=total_timeout)

    async def working_directory(self) -> str:
        """Returns the working directory of the snapshot. Raises SandboxError."""
        timeout = self._manager.config.outage_timeout
        get = self._handle.get_work_dir
        return str(await self._call("the working directory", get, attempt_timeout=15.0, total_timeout=timeout))

    async def upload(self, path: str, data: bytes) -> None:
        """Uploads a file. Raises SandboxError, and FileError if the disk is full."""

        async def attempt() -> None:
            await self._handle.fs.upload_file(data, path, timeout=_STALL_TIMEOUT_SECONDS)

        timeout = _TRANSFER_TIMEOUT_SECONDS
        await self._call("an upload", attempt, attempt_timeout=timeout, total_timeout=timeout)

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
                if (known := classify(error)) is None:
                    raise
                failure = known
            if done < size:
                attempts += 1
                await self._recover(failure, attempts)

    async def _recover(self, failure: Failure, attempts: int) -> None:
        if attempts > _MAX_DOWNLOAD_ATTEMPTS:
            raise as_toolbox_error(failure, "a download")
        if failure.kind in STATE_DEPENDENT:
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
        before = self._handle
        async with self._reviving:
            if self._handle is before:  # else another call has just done it
                self._handle = await self._manager.revive(self.id, self._notify)

    async def renew_lease(self) -> None:
        """Renews the lease and postpones auto-stop. Raises SandboxError."""
        await self._manager.renew_lease(self._handle)

    async def _call(
        self, operation: str, attempt: Callable[[], Awaitable[T]], *, attempt_timeout: float, total_timeout: float
    ) -> T:
        """Calls the toolbox. A refusal only counts if the sandbox is started, and then only if it lasts.

        The time for which the state of the sandbox is asked for, and for which it starts, is not counted.
        """
        loop = asyncio.get_running_loop()
        end = loop.time() + total_timeout
        for number in itertools.count():
            try:
                return await retry(
                    operation,
                    attempt,
                    attempt_timeout=attempt_timeout,
                    total_timeout=end - loop.time(),
                    handled=STATE_DEPENDENT | _ABOUT_THE_DISK,
                )
            except CallFailedError as error:
                failure = error.failure
            if about_the_disk := as_file_error(failure):
                raise about_the_disk
            asked = loop.time()
            await self.revive()
            end += loop.time() - asked
            delay = retry_delay(number, failure)
            if loop.time() + delay > end:
                raise as_toolbox_error(failure, operation)
            await asyncio.sleep(delay)
        raise AssertionError  # the loop has no end
