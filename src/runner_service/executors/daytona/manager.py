"""Lifecycle of Daytona sandboxes: finds, creates, starts, awaits and deletes them, tolerating API failures.

The name of a sandbox is derived from its session or execution. After a create with an unknown outcome, the sandbox is
looked up by name and adopted or deleted.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Literal, TypeVar

from runner_service.executors.daytona.config import (
    KIND,
    LEASE,
    MINUTES_PER_DAY,
    OWNER,
    Notify,
    SandboxConfig,
    SandboxRef,
)
from runner_service.executors.daytona.failures import (
    FailureKind,
    IncompatibleServerError,
    RefusedError,
    SandboxLostError,
)
from runner_service.executors.daytona.raw_api import RawApi
from runner_service.executors.daytona.retries import RETRYABLE, CallFailedError, retry
from runner_service.executors.daytona.start_wait import StartWait
from runner_service.executors.protocol import SandboxSpec

if TYPE_CHECKING:
    from daytona import AsyncDaytona, AsyncSandbox, CreateSandboxFromSnapshotParams

T = TypeVar("T")

logger = logging.getLogger(__name__)

_ATTEMPT_TIMEOUT_SECONDS = 15.0
_CALL_TIMEOUT_SECONDS = 60.0
_CREATE_ATTEMPT_TIMEOUT_SECONDS = 10
_SLOW_START_NOTICE_SECONDS = 1.0
_DELETE_TIMEOUT_SECONDS = 90.0
_STARTABLE_STATES = frozenset({"stopped", "archived", "paused"})
_FAILED_STATES = frozenset({"error", "build_failed"})
_DELETED_STATES = frozenset({"destroyed", "destroying"})
_PASSING_WHILE_STARTING = (*RETRYABLE, FailureKind.BUSY, FailureKind.MISSING)


class SandboxManager:
    """Finds, creates and deletes sandboxes. One per process."""

    def __init__(self, client: "AsyncDaytona", raw_api: RawApi, config: SandboxConfig) -> None:
        self._client = client
        self._raw_api = raw_api
        self.config = config

    def ref_for(self, spec: SandboxSpec) -> SandboxRef:
        """Returns the sandbox of an execution or its session."""
        kind: Literal["session", "execution"] = "session" if spec.session_id else "execution"
        digest = hashlib.sha256((spec.session_id or spec.execution_id).encode("utf-8", "surrogatepass")).hexdigest()
        return SandboxRef(f"{self.config.owner}-{kind}-{digest[:24]}", kind)

    async def obtain(self, ref: SandboxRef, notify: Notify) -> "AsyncSandbox":
        """Returns the started sandbox, created or started if necessary.

        Raises:
            SandboxError: no sandbox can be obtained; the class says why.
        """
        return await self._ensure_started(ref.name, StartWait(self.config.start_timeout, notify), ref)

    async def revive(self, sandbox_id: str, notify: Notify) -> "AsyncSandbox":
        """Returns an existing sandbox, started if it was stopped; waits for an API that is away.

        Raises:
            SandboxLostError: it no longer exists.
        """
        wait = StartWait(self.config.outage_timeout + self.config.start_timeout, notify)
        return await self._ensure_started(sandbox_id, wait, None)

    async def find(self, name_or_id: str, *, total_timeout: float = _CALL_TIMEOUT_SECONDS) -> "AsyncSandbox | None":
        """Returns a sandbox in any state; None if there is none. Raises SandboxError."""
        try:
            return await self.call(
                "the state of a sandbox",
                lambda: self._client.get(name_or_id, request_timeout=_ATTEMPT_TIMEOUT_SECONDS),
                total_timeout=total_timeout,
                handled=(FailureKind.MISSING,),
            )
        except CallFailedError:
            return None

    async def delete(self, name_or_id: str) -> None:
        """Deletes a sandbox, waiting out a state change; no error if it is gone. Raises SandboxError."""
        try:
            sandbox = await self.find(name_or_id)
            if sandbox is None or _state(sandbox) in _DELETED_STATES:
                return
            await self.call(
                "the deletion of a sandbox",
                lambda: sandbox.delete(timeout=_ATTEMPT_TIMEOUT_SECONDS),
                total_timeout=_DELETE_TIMEOUT_SECONDS,
                retryable=RETRYABLE | {FailureKind.BUSY},
                handled=(FailureKind.MISSING,),
            )
        except CallFailedError:
            return
        except IncompatibleServerError:
            await self._raw_api.delete(name_or_id)
        logger.info("sandbox_deleted name=%s", name_or_id)

    async def renew_lease(self, sandbox: "AsyncSandbox", labels: Mapping[str, str]) -> None:
        """Renews the lease. Raises SandboxError."""
        fresh = {**labels, LEASE: self._lease_end()}
        await self.call("the lease of a sandbox", lambda: sandbox.set_labels(fresh))

    def labels(self, ref: SandboxRef) -> dict[str, str]:
        """Returns the labels of a sandbox whose lease starts now."""
        return {OWNER: self.config.owner, KIND: ref.kind, LEASE: self._lease_end()}

    async def call(
        self,
        operation: str,
        attempt: Callable[[], Awaitable[T]],
        *,
        attempt_timeout: float = _ATTEMPT_TIMEOUT_SECONDS,
        total_timeout: float = _CALL_TIMEOUT_SECONDS,
        retryable: Collection[FailureKind] = RETRYABLE,
        handled: Collection[FailureKind] = (),
    ) -> T:
        """Calls the API as `retry` does. Raises IncompatibleServerError with the versions if it is unreadable."""
        try:
            return await retry(
                operation,
                attempt,
                attempt_timeout=attempt_timeout,
                total_timeout=total_timeout,
                retryable=retryable,
                handled=handled,
            )
        except IncompatibleServerError:
            raise await self._raw_api.incompatible() from None

    def _lease_end(self) -> str:
        return str(int(time.time() + self.config.lease))

    async def _ensure_started(self, reference: str, wait: StartWait, ref: SandboxRef | None) -> "AsyncSandbox":
        while True:
            sandbox = await self.find(reference, total_timeout=self._patience(wait, ref))
            state = _state(sandbox) if sandbox else "destroyed"
            if sandbox is not None and state == "started":
                self._require_ours(sandbox)
                return sandbox
            if sandbox is not None and state in _STARTABLE_STATES:
                wait.notify_restart(state)
                await self._start(sandbox, wait)
            elif state in _FAILED_STATES:
                wait.count_failed_start(state)
                await self.delete(reference)
            elif state in _DELETED_STATES and ref is None:
                raise SandboxLostError("the sandbox is gone, and with it its files")
            elif sandbox is None and ref is not None:
                await self._create(ref, wait)
                continue
            await wait.wait_for_poll(state)

    def _patience(self, wait: StartWait, ref: SandboxRef | None) -> float:
        return wait.left() if ref else min(wait.left(), self.config.outage_timeout)

    def _require_ours(self, sandbox: "AsyncSandbox") -> None:
        if sandbox.labels.get(OWNER) != self.config.owner:
            raise RefusedError(
                "a sandbox of that name belongs to somebody else; give this service its own DAYTONA_OWNER"
            )

    async def _start(self, sandbox: "AsyncSandbox", wait: StartWait) -> None:
        try:
            await self.call(
                "the start of a sandbox",
                lambda: sandbox.start(timeout=_CREATE_ATTEMPT_TIMEOUT_SECONDS),
                attempt_timeout=_bounded(wait),
                total_timeout=wait.left(),
                retryable=(),
                # Another one may have started it meanwhile, which is a 400; the next poll tells.
                handled=(*_PASSING_WHILE_STARTING, FailureKind.REFUSED),
            )
        except CallFailedError as error:
            await wait.back_off(error)

    async def _create(self, ref: SandboxRef, wait: StartWait) -> None:
        """Tries once; the caller checks the outcome. Cancellation waits for the end of the attempt."""
        attempt = asyncio.create_task(self._attempt_create(ref, wait))
        try:
            await asyncio.wait([attempt], timeout=_SLOW_START_NOTICE_SECONDS)
            if not attempt.done():
                wait.notify_slow("it is being created")
            await asyncio.shield(attempt)
        except asyncio.CancelledError:
            await asyncio.wait([attempt])
            attempt.exception()
            raise
        except IncompatibleServerError:
            await self._raw_api.delete(ref.name)  # it was created, and nobody will find it in the SDK's way
            raise
        except CallFailedError as error:
            await wait.back_off(error)

    async def _attempt_create(self, ref: SandboxRef, wait: StartWait) -> None:
        seconds = max(1.0, min(_CREATE_ATTEMPT_TIMEOUT_SECONDS, wait.left()))
        await self.call(
            "a new sandbox",
            lambda: self._client.create(self._parameters(ref), timeout=seconds),
            attempt_timeout=_bounded(wait),
            total_timeout=_bounded(wait),
            retryable=(),
            handled=_PASSING_WHILE_STARTING,
        )

    def _parameters(self, ref: SandboxRef) -> "CreateSandboxFromSnapshotParams":
        """Sets no environment, so that the sandbox can come from a warm pool."""
        from daytona import CreateSandboxFromSnapshotParams  # noqa: PLC0415  # see `sdk`

        config = self.config
        is_own = ref.kind == "execution"
        return CreateSandboxFromSnapshotParams(
            name=ref.name,
            snapshot=config.snapshot or None,
            labels=self.labels(ref),
            auto_stop_interval=config.auto_stop_minutes,
            ephemeral=True if is_own else None,
            ttl_minutes=config.ttl_minutes if is_own else None,
            auto_delete_interval=None if is_own else config.session_days * MINUTES_PER_DAY,
        )


def _bounded(wait: StartWait) -> float:
    """Returns the seconds that one attempt may take: what is left, and a moment, since a started one is a success."""
    return max(1.0, min(2.0 * _CREATE_ATTEMPT_TIMEOUT_SECONDS, wait.left() + 1.0))


def _state(sandbox: "AsyncSandbox") -> str:
    state = sandbox.state
    return str(getattr(state, "value", state) or "unknown")
