"""Lifecycle of Daytona sandboxes: finds, creates, starts, awaits and deletes them, tolerating API failures.

The name of a sandbox is derived from its session or execution. After a create with an unknown outcome, the sandbox is
looked up by name and adopted or deleted.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from runner_service.executors.daytona.failures import (
    FailureKind,
    RefusedError,
    SandboxLostError,
    as_sandbox_error,
    retry_delay,
)
from runner_service.executors.daytona.retries import RETRYABLE, CallFailedError, retry
from runner_service.executors.protocol import SandboxError, SandboxSpec

if TYPE_CHECKING:
    from daytona import AsyncDaytona, AsyncSandbox, CreateSandboxFromSnapshotParams

logger = logging.getLogger(__name__)

OWNER, KIND, LEASE = "runner-service-owner", "runner-service-kind", "runner-service-lease"
"""Labels: owner, kind (session or execution), and the end of the lease in Unix seconds."""

_ATTEMPT_TIMEOUT_SECONDS = 15.0
_CALL_TIMEOUT_SECONDS = 60.0
_CREATE_ATTEMPT_TIMEOUT_SECONDS = 10
_SLOW_START_NOTICE_SECONDS = 1.0
_DELETE_TIMEOUT_SECONDS = 90.0
_FIRST_POLL_INTERVAL_SECONDS, _MAX_POLL_INTERVAL_SECONDS = 0.05, 1.0
_MINUTES_PER_DAY = 24 * 60
_STARTABLE_STATES = {"stopped", "archived", "paused"}
_FAILED_STATES = {"error", "build_failed"}
_DELETED_STATES = {"destroyed", "destroying"}

Notify = Callable[[str, str], None]


@dataclass(frozen=True)
class SandboxConfig:
    """How sandboxes are created and used. Times are in seconds unless the name says otherwise.

    `owner` is shared by all replicas of a service. `auto_stop_minutes` stops an unused sandbox; `ttl_minutes` deletes
    an execution's sandbox in any case; `session_days` deletes a session's sandbox that long after it stopped. A request
    waits in the sandbox for at most `poll_interval`, and its response takes at most `response_margin` more. A command
    with stdin ends when its sandbox has not heard from the service for `stdin_idle_timeout` after that.
    """

    owner: str = "runner-service"
    snapshot: str = ""
    auto_stop_minutes: int = 15
    ttl_minutes: int = _MINUTES_PER_DAY
    session_days: int = 7
    start_timeout: float = 300.0
    lease: float = 600.0
    poll_interval: float = 20.0
    response_margin: int = 10
    stdin_idle_timeout: float = 60.0


@dataclass(frozen=True)
class SandboxRef:
    """Identifies a sandbox: of a session, which keeps it, or of a single execution."""

    name: str
    kind: Literal["session", "execution"]


class SandboxManager:
    """Finds, creates and deletes sandboxes. One per process."""

    def __init__(self, client: "AsyncDaytona", config: SandboxConfig) -> None:
        self._client = client
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
        return await self._ensure_started(ref.name, notify, ref)

    async def revive(self, sandbox_id: str, notify: Notify) -> "AsyncSandbox":
        """Returns an existing sandbox, started if it was stopped.

        Raises:
            SandboxLostError: it no longer exists.
        """
        return await self._ensure_started(sandbox_id, notify, None)

    async def find(self, name_or_id: str) -> "AsyncSandbox | None":
        """Returns a sandbox in any state; None if there is none. Raises SandboxError."""
        try:
            return await retry(
                "the state of a sandbox",
                lambda: self._client.get(name_or_id, request_timeout=_ATTEMPT_TIMEOUT_SECONDS),
                attempt_timeout=_ATTEMPT_TIMEOUT_SECONDS,
                total_timeout=_CALL_TIMEOUT_SECONDS,
                handled=(FailureKind.MISSING,),
            )
        except CallFailedError:
            return None

    async def delete(self, name_or_id: str) -> None:
        """Deletes a sandbox, waiting out a state change; no error if it is gone. Raises SandboxError."""
        sandbox = await self.find(name_or_id)
        if sandbox is None or _state(sandbox) in _DELETED_STATES:
            return
        try:
            await retry(
                "the deletion of a sandbox",
                lambda: sandbox.delete(timeout=_ATTEMPT_TIMEOUT_SECONDS),
                attempt_timeout=_ATTEMPT_TIMEOUT_SECONDS,
                total_timeout=_DELETE_TIMEOUT_SECONDS,
                retryable=RETRYABLE | {FailureKind.BUSY},
                handled=(FailureKind.MISSING,),
            )
        except CallFailedError:
            return
        logger.info("sandbox_deleted name=%s", name_or_id)

    async def renew_lease(self, sandbox: "AsyncSandbox", labels: Mapping[str, str]) -> None:
        """Renews the lease. Raises SandboxError."""
        fresh = {**labels, LEASE: self._lease_end()}
        await retry(
            "the lease of a sandbox",
            lambda: sandbox.set_labels(fresh),
            attempt_timeout=_ATTEMPT_TIMEOUT_SECONDS,
            total_timeout=_CALL_TIMEOUT_SECONDS,
        )

    def labels(self, ref: SandboxRef) -> dict[str, str]:
        """Returns the labels of a sandbox whose lease starts now."""
        return {OWNER: self.config.owner, KIND: ref.kind, LEASE: self._lease_end()}

    def _lease_end(self) -> str:
        return str(int(time.time() + self.config.lease))

    async def _ensure_started(self, reference: str, notify: Notify, ref: SandboxRef | None) -> "AsyncSandbox":
        start = _StartWait(self.config, notify)
        while True:
            sandbox = await self.find(reference)
            state = _state(sandbox) if sandbox else "destroyed"
            if sandbox is not None and state == "started":
                self._require_ours(sandbox)
                return sandbox
            if sandbox is not None and state in _STARTABLE_STATES:
                start.notify_restart(state)
                await self._start(sandbox, start)
            elif state in _FAILED_STATES:
                start.count_failed_start(state)
                await self.delete(reference)
            elif state in _DELETED_STATES and ref is None:
                raise SandboxLostError("the sandbox is gone, and with it its files")
            elif sandbox is None and ref is not None:
                await self._create(ref, start)
                continue
            await start.wait_for_poll(state)

    def _require_ours(self, sandbox: "AsyncSandbox") -> None:
        if sandbox.labels.get(OWNER) != self.config.owner:
            raise RefusedError(
                "a sandbox of that name belongs to somebody else; give this service its own DAYTONA_OWNER"
            )

    async def _start(self, sandbox: "AsyncSandbox", start: "_StartWait") -> None:
        try:
            await retry(
                "the start of a sandbox",
                lambda: sandbox.start(timeout=_CREATE_ATTEMPT_TIMEOUT_SECONDS),
                attempt_timeout=2 * _CREATE_ATTEMPT_TIMEOUT_SECONDS,
                total_timeout=start.left(),
                retryable=(),
                handled=(*RETRYABLE, FailureKind.BUSY, FailureKind.MISSING),
            )
        except CallFailedError as error:
            await start.back_off(error)

    async def _create(self, ref: SandboxRef, start: "_StartWait") -> None:
        """Tries once; the caller checks the outcome. Cancellation waits for the end of the attempt."""
        attempt = asyncio.create_task(
            self._attempt_create(ref, max(1.0, min(_CREATE_ATTEMPT_TIMEOUT_SECONDS, start.left())))
        )
        try:
            await asyncio.wait([attempt], timeout=_SLOW_START_NOTICE_SECONDS)
            if not attempt.done():
                start.notify_slow("it is being created")
            await asyncio.shield(attempt)
        except asyncio.CancelledError:
            await asyncio.wait([attempt])
            attempt.exception()
            raise
        except CallFailedError as error:
            if error.failure.kind is FailureKind.MISSING:
                raise RefusedError("Daytona does not know the snapshot DAYTONA_DEV_TOOLS_SNAPSHOT_ID") from None
            await start.back_off(error)

    async def _attempt_create(self, ref: SandboxRef, seconds: float) -> None:
        await retry(
            "a new sandbox",
            lambda: self._client.create(self._parameters(ref), timeout=seconds),
            attempt_timeout=2 * _CREATE_ATTEMPT_TIMEOUT_SECONDS,
            total_timeout=2 * _CREATE_ATTEMPT_TIMEOUT_SECONDS,
            retryable=(),
            handled=(*RETRYABLE, FailureKind.BUSY, FailureKind.MISSING),
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
            auto_delete_interval=None if is_own else config.session_days * _MINUTES_PER_DAY,
        )


class _StartWait:
    """One wait for a sandbox: its deadline and the notices already sent."""

    def __init__(self, config: SandboxConfig, notify: Notify) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + config.start_timeout
        self._seconds = config.start_timeout
        self._notify = notify
        self._sent: set[str] = set()
        self._attempts = 0
        self._failed_starts = 0

    def left(self) -> float:
        """Returns the seconds left."""
        return self._end - self._loop.time()

    def notify_restart(self, state: str) -> None:
        """Sends, once, the notice that processes in the sandbox are gone."""
        self._notify_once(
            "SANDBOX_RESTARTED",
            f"the sandbox was {state} and is started again: its files are there, processes and memory are gone",
        )

    def notify_slow(self, why: str) -> None:
        """Sends, once per reason, the notice that the sandbox is not ready."""
        self._notify_once("SANDBOX_STARTING", f"the sandbox is not ready yet: {why}")

    def count_failed_start(self, state: str) -> None:
        """Tolerates one sandbox that fails to start. Raises SandboxError."""
        self._failed_starts += 1
        if self._failed_starts > 1:
            raise SandboxError(f"the sandbox does not start: Daytona says {state}")

    async def back_off(self, error: CallFailedError) -> None:
        """Waits before a retry, at least its Retry-After. Raises SandboxError when no time is left."""
        delay = retry_delay(self._attempts, error.failure)
        if delay > self.left():
            if error.failure.kind is FailureKind.TRANSIENT:
                raise SandboxError(f"the sandbox did not start within {self._seconds:g} s") from None
            raise as_sandbox_error(error.failure, "a new sandbox") from None
        self._attempts += 1
        await asyncio.sleep(delay)

    async def wait_for_poll(self, state: str) -> None:
        """Waits before the next poll. Raises SandboxError on timeout."""
        if self.left() <= 0:
            raise SandboxError(f"the sandbox did not start within {self._seconds:g} s: Daytona says {state}")
        if state not in _STARTABLE_STATES | _DELETED_STATES | _FAILED_STATES:
            self.notify_slow(f"Daytona says {state}")
        await asyncio.sleep(min(_FIRST_POLL_INTERVAL_SECONDS * 2**self._attempts, _MAX_POLL_INTERVAL_SECONDS))
        self._attempts += 1

    def _notify_once(self, code: str, text: str) -> None:
        if text not in self._sent:
            self._sent.add(text)
            self._notify(code, text)


def _state(sandbox: "AsyncSandbox") -> str:
    state = sandbox.state
    return str(getattr(state, "value", state) or "unknown")
