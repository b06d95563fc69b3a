"""Lifecycle of Daytona sandboxes: finds, creates, starts, awaits and deletes them, tolerating API failures.

The name of a sandbox is derived from its session or execution. After a create with an unknown outcome, the sandbox is
looked up by name and adopted or deleted.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Literal, TypeVar

from runner_service.executors.daytona.api import DELETED_STATES, SandboxApi, state_of
from runner_service.executors.daytona.config import (
    LEASE,
    MINUTES_PER_DAY,
    NAME,
    PARKED,
    Notify,
    SandboxConfig,
    SandboxRef,
)
from runner_service.executors.daytona.failures import FailureKind, IncompatibleServerError
from runner_service.executors.daytona.raw_api import RawApi
from runner_service.executors.daytona.retries import RETRYABLE, CallFailedError
from runner_service.executors.daytona.start_wait import StartWait
from runner_service.executors.protocol import MAX_PARKED_DAYS, SandboxLostError, SandboxSpec

if TYPE_CHECKING:
    from daytona import AsyncDaytona, AsyncSandbox

T = TypeVar("T")

Origin = Literal["new", "existing", "warm"]

Claim = Callable[[SandboxRef], Awaitable["AsyncSandbox | None"]]
"""Returns a started sandbox that now belongs to a session or execution, if there is one to be had."""

logger = logging.getLogger(__name__)

_CREATE_ATTEMPT_TIMEOUT_SECONDS = 10
_SLOW_START_NOTICE_SECONDS = 1.0
_DELETE_TIMEOUT_SECONDS = 60.0
_MAX_REMEMBERED_CLAIMS = 10_000
_STARTABLE_STATES = frozenset({"stopped", "archived", "paused"})
_FAILED_STATES = frozenset({"error", "build_failed"})
_PASSING_WHILE_STARTING = (*RETRYABLE, FailureKind.BUSY, FailureKind.MISSING)


class SandboxManager(SandboxApi):
    """Finds, creates, starts and deletes sandboxes. One per process."""

    def __init__(self, client: "AsyncDaytona", raw_api: RawApi, config: SandboxConfig) -> None:
        super().__init__(client, raw_api, config)
        self._claimed: dict[str, str] = {}
        self._abandoned: dict[asyncio.Task[AsyncSandbox], str] = {}

    async def close(self) -> None:
        """Gives up the attempts to create a sandbox whose callers were cancelled."""
        for attempt in self._abandoned:
            attempt.cancel()
        if self._abandoned:
            await asyncio.wait(self._abandoned)

    def ref_for(self, spec: SandboxSpec) -> SandboxRef:
        """Returns the sandbox of an execution or its session."""
        kind: Literal["session", "execution"] = "session" if spec.session_id else "execution"
        digest = hashlib.sha256((spec.session_id or spec.execution_id).encode("utf-8", "surrogatepass")).hexdigest()
        return SandboxRef(f"{self.config.owner}-{kind}-{digest[:24]}", kind)

    async def obtain(
        self, ref: SandboxRef, notify: Notify, claim: Claim | None = None
    ) -> "tuple[AsyncSandbox, Origin]":
        """Returns the started sandbox, and where it comes from. A new one is what `claim` has, or is created.

        Raises:
            SandboxError: no sandbox can be obtained; the class says why.
        """
        wait = StartWait(self.config.start_timeout, notify)
        if ref.kind == "session" or claim:  # else there is mostly none, and if there is, its creation is refused
            if found := await self._find_by_label_too(ref, wait.left(), at_once=claim is not None):
                return await self._ensure_started(found.id, wait, ref, found), "existing"
            if claim and (warm := await claim(ref)):
                return warm, "warm"
        if new := await self._create(ref, wait):
            return new, "new"
        return await self._ensure_started(ref.name, wait, ref), "new" if wait.has_created else "existing"

    async def claim(self, sandbox: "AsyncSandbox", ref: SandboxRef) -> None:
        """Makes a sandbox of the warm pool that of a session or execution. Raises SandboxError if it cannot be used."""
        config = self.config
        calls: list[Awaitable[object]] = [
            self.call("the labels of a sandbox", lambda: sandbox.set_labels(self._parameters.labels(ref)))
        ]
        if ref.kind == "session":
            minutes = config.session_days * MINUTES_PER_DAY
            calls.append(self.call("an interval of a sandbox", lambda: sandbox.set_auto_delete_interval(minutes)))
        elif set_ttl := getattr(sandbox, "set_ttl", None):  # not in early versions of the SDK
            calls.append(self.call("the lifetime of a sandbox", lambda: set_ttl(config.ttl_minutes)))
        found, *results = await asyncio.gather(self.find(sandbox.id), *calls, return_exceptions=True)
        for result in (found, *results):
            if isinstance(result, BaseException):
                raise result
        if found is None or state_of(found) != "started":  # type: ignore[arg-type]  # no exception any more
            raise SandboxLostError("the sandbox of the warm pool does not run any more")
        self._claimed[ref.name] = sandbox.id
        while len(self._claimed) > _MAX_REMEMBERED_CLAIMS:
            del self._claimed[next(iter(self._claimed))]

    async def delete(self, name_or_id: str) -> None:
        """Deletes a sandbox as `SandboxApi` does, after an attempt to create it whose caller was cancelled."""
        if attempts := [attempt for attempt, name in self._abandoned.items() if name == name_or_id]:
            await asyncio.wait(attempts)
        await super().delete(name_or_id)

    async def delete_for(self, ref: SandboxRef) -> None:
        """Deletes the sandbox of a session or execution, wherever it came from. Raises SandboxError."""
        found = await self._find_by_label_too(ref, _DELETE_TIMEOUT_SECONDS)
        await self.delete(found.id if found else ref.name)
        self._claimed.pop(ref.name, None)

    async def park(self, reference: str) -> None:
        """Stops a sandbox, which is then kept for `MAX_PARKED_DAYS`, whatever its kind. Raises SandboxError."""
        sandbox = await self.find(reference)
        if sandbox is None:
            return
        lease_end = str(int(time.time() + MAX_PARKED_DAYS * 86_400))
        await self._set_labels(sandbox, {**sandbox.labels, LEASE: lease_end, PARKED: "true"})
        await self._set_intervals(sandbox, auto_delete_minutes=MAX_PARKED_DAYS * MINUTES_PER_DAY, ttl_minutes=0)
        with suppress(CallFailedError):  # it has stopped by itself
            await self.call(
                "the stop of a sandbox",
                lambda: sandbox.stop(timeout=_CREATE_ATTEMPT_TIMEOUT_SECONDS),
                attempt_timeout=2 * _CREATE_ATTEMPT_TIMEOUT_SECONDS,
                handled=(FailureKind.REFUSED, FailureKind.MISSING),
            )
        logger.info("sandbox_parked name=%s", sandbox.name)

    async def unpark(self, sandbox: "AsyncSandbox", ref: SandboxRef) -> None:
        """Gives a sandbox that was parked the lifetime of its kind again. Raises SandboxError."""
        if PARKED not in sandbox.labels:
            return
        is_session = ref.kind == "session"
        await self._set_labels(sandbox, self._parameters.labels(ref))
        await self._set_intervals(
            sandbox,
            auto_delete_minutes=self.config.session_days * MINUTES_PER_DAY if is_session else 0,
            ttl_minutes=0 if is_session else self.config.ttl_minutes,
        )

    async def _set_labels(self, sandbox: "AsyncSandbox", labels: dict[str, str]) -> None:
        sandbox.labels = await self.call("the labels of a sandbox", lambda: sandbox.set_labels(labels)) or labels

    async def _set_intervals(self, sandbox: "AsyncSandbox", *, auto_delete_minutes: int, ttl_minutes: int) -> None:
        await self.call("an interval of a sandbox", lambda: sandbox.set_auto_delete_interval(auto_delete_minutes))
        if set_ttl := getattr(sandbox, "set_ttl", None):  # not in early versions of the SDK
            await self.call("the lifetime of a sandbox", lambda: set_ttl(ttl_minutes))

    async def revive(self, sandbox_id: str, notify: Notify) -> "AsyncSandbox":
        """Returns an existing sandbox, started if it was stopped; waits for an API that is away.

        Raises:
            SandboxLostError: it no longer exists.
        """
        wait = StartWait(self.config.outage_timeout + self.config.start_timeout, notify)
        return await self._ensure_started(sandbox_id, wait, None)

    async def existing(self, ref: SandboxRef, notify: Notify) -> "AsyncSandbox":
        """Returns the sandbox of a session or execution, started; makes none.

        Raises:
            SandboxLostError: there is none any more.
            SandboxError: it cannot be started.
        """
        wait = StartWait(self.config.start_timeout, notify)
        if (found := await self._find_by_label_too(ref, wait.left())) is None:
            raise SandboxLostError("the sandbox is gone, and with it its files")
        return await self._ensure_started(found.id, wait, None, found)

    async def running(self, ref: SandboxRef) -> "AsyncSandbox | None":
        """Returns the sandbox of a session or execution if it is started. Raises SandboxError."""
        found = await self._find_by_label_too(ref, _DELETE_TIMEOUT_SECONDS)
        return found if found and state_of(found) == "started" else None

    async def _find_by_label_too(
        self, ref: SandboxRef, total_timeout: float, *, at_once: bool = False
    ) -> "AsyncSandbox | None":
        """Looks for a sandbox by its name, and for one that came from the warm pool by its label.

        `at_once` saves a round trip where most come from there, and costs a request where not.
        """
        claimed = self._claimed.pop(ref.name, "")
        if claimed and (found := await self.find(claimed, total_timeout=total_timeout)):
            self._claimed[ref.name] = claimed
            return found
        listing = asyncio.create_task(self.list_by_labels({NAME: ref.name})) if at_once else None
        if listing:
            listing.add_done_callback(_retrieve_exception)
        try:
            if found := await self.find(ref.name, total_timeout=total_timeout):
                return found
            listed = await (listing or self.list_by_labels({NAME: ref.name}))
        finally:
            if listing:
                listing.cancel()
        found = await self.find(listed[0].id) if listed else None  # the list may be old
        return found if found and found.labels.get(NAME) == ref.name else None

    async def _ensure_started(
        self, reference: str, wait: StartWait, ref: SandboxRef | None, found: "AsyncSandbox | None" = None
    ) -> "AsyncSandbox":
        while True:
            sandbox = found or await self.find(reference, total_timeout=self._call_timeout(wait, ref))
            found = None
            state = state_of(sandbox) if sandbox else "destroyed"
            if sandbox is not None and state == "started":
                self._parameters.check(sandbox)
                return sandbox
            if sandbox is not None and state in _STARTABLE_STATES:
                wait.notify_restart(state)
                await self._start(sandbox, wait)
            elif state in _FAILED_STATES:
                wait.count_failed_start(state)
                await self.delete(reference)
            elif state in DELETED_STATES and ref is None:
                raise SandboxLostError("the sandbox is gone, and with it its files")
            elif sandbox is None and ref is not None:
                if new := await self._create(ref, wait):
                    return new
                reference = ref.name
                continue
            await wait.wait_for_poll(state)

    def _call_timeout(self, wait: StartWait, ref: SandboxRef | None) -> float:
        return wait.left() if ref else min(wait.left(), self.config.outage_timeout)

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

    async def _create(self, ref: SandboxRef, wait: StartWait) -> "AsyncSandbox | None":
        """Tries once; the caller looks for it if this returns None. An attempt whose caller is cancelled goes on."""
        attempt = asyncio.create_task(self._attempt_create(ref, wait))
        try:
            await asyncio.wait([attempt], timeout=_SLOW_START_NOTICE_SECONDS)
            if not attempt.done():
                wait.notify_slow("it is being created")
            new = await asyncio.shield(attempt)
        except asyncio.CancelledError:
            self._abandon(attempt, ref.name)
            raise
        except IncompatibleServerError:
            await self._raw_api.delete(ref.name)  # it was created, and nobody will find it in the SDK's way
            raise
        except CallFailedError as error:
            await wait.back_off(error)
            return None
        wait.has_created = True
        self._parameters.check(new)
        return new if state_of(new) == "started" else None

    def _abandon(self, attempt: "asyncio.Task[AsyncSandbox]", name: str) -> None:
        """Remembers an attempt, since only after its end it can be told whether there is a sandbox to delete."""

        def forget(ended: "asyncio.Task[AsyncSandbox]") -> None:
            del self._abandoned[ended]
            _retrieve_exception(ended)

        self._abandoned[attempt] = name
        attempt.add_done_callback(forget)

    async def _attempt_create(self, ref: SandboxRef, wait: StartWait) -> "AsyncSandbox":
        parameters = await self._parameters.of(ref)
        seconds = max(1.0, min(_CREATE_ATTEMPT_TIMEOUT_SECONDS, wait.left()))
        return await self.call(
            "a new sandbox",
            lambda: self._client.create(parameters, timeout=seconds),
            attempt_timeout=_bounded(wait),
            total_timeout=_bounded(wait),
            retryable=(),
            handled=_PASSING_WHILE_STARTING,
        )


def _bounded(wait: StartWait) -> float:
    """Returns the seconds that one attempt may take: what is left, and a moment, since a started one is a success."""
    return max(1.0, min(2.0 * _CREATE_ATTEMPT_TIMEOUT_SECONDS, wait.left() + 1.0))


def _retrieve_exception(ended: asyncio.Task[T]) -> None:
    """Prevents the warning about an exception that nobody retrieves."""
    if not ended.cancelled():
        ended.exception()
