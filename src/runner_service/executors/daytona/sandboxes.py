"""Boxes as Daytona knows them: found by name, created, started, waited for and deleted, whatever goes wrong on the way.

A box has a name that follows from what it is for. So whoever does not know whether a create has succeeded looks for the
name, and adopts what is there or deletes it.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from runner_service.executors.daytona.failures import BoxLostError, Kind, RefusedError, ended, pause
from runner_service.executors.daytona.retries import PASSING, CallFailedError, patiently
from runner_service.executors.protocol import SandboxError, SandboxSpec

if TYPE_CHECKING:
    from daytona import AsyncDaytona, AsyncSandbox, CreateSandboxFromSnapshotParams

logger = logging.getLogger(__name__)

OWNER, KIND, LEASE = "runner-service-owner", "runner-service-kind", "runner-service-lease"
"""Labels: whose a box is, what it is for, and until when (Unix seconds) nobody may take it for abandoned."""

_EACH = 15.0
_CALL_PATIENCE = 60.0
_CREATE_WAITS = 10
_TELL_AFTER = 1.0
_DELETE_PATIENCE = 90.0
_FIRST_POLL, _LONGEST_POLL = 0.05, 1.0
_MINUTES_PER_DAY = 24 * 60
_SLEEPING = {"stopped", "archived", "paused"}
_BROKEN = {"error", "build_failed"}
_GONE = {"destroyed", "destroying"}

Notify = Callable[[str, str], None]


@dataclass(frozen=True)
class Terms:
    """On which terms boxes are had. Times are in seconds unless the name says otherwise.

    `owner` is shared by all replicas of a service. `auto_stop_minutes` stops a box that nobody uses; `ttl_minutes`
    deletes the box of an execution whatever happens; `session_days` deletes a session's box that long after it stopped.
    A request waits in a box for at most `poll` for something to happen, and its answer takes at most `slack` more. A
    command that is fed ends when its box has not heard from us for `forsaken` after that.
    """

    owner: str = "runner-service"
    snapshot: str = ""
    auto_stop_minutes: int = 15
    ttl_minutes: int = _MINUTES_PER_DAY
    session_days: int = 7
    start_timeout: float = 300.0
    lease: float = 600.0
    poll: float = 20.0
    slack: int = 10
    forsaken: float = 60.0


@dataclass(frozen=True)
class Wanted:
    """What a box is for: the one of a session, which keeps it, or of a single execution."""

    name: str
    kind: Literal["session", "execution"]


class Boxes:
    """Finds and makes boxes. One per process."""

    def __init__(self, client: "AsyncDaytona", terms: Terms) -> None:
        self._client = client
        self.terms = terms

    def wanted(self, spec: SandboxSpec) -> Wanted:
        """Returns which box an execution works in."""
        kind: Literal["session", "execution"] = "session" if spec.session_id else "execution"
        digest = hashlib.sha256((spec.session_id or spec.execution_id).encode("utf-8", "surrogatepass")).hexdigest()
        return Wanted(f"{self.terms.owner}-{kind}-{digest[:24]}", kind)

    async def obtain(self, wanted: Wanted, notify: Notify) -> "AsyncSandbox":
        """Returns the box, made or started if need be.

        Raises:
            SandboxError: there is none to be had; its class says why.
        """
        return await self._bring_up(wanted.name, notify, wanted)

    async def revive(self, box_id: str, notify: Notify) -> "AsyncSandbox":
        """Returns a box that was there before, started if it was stopped.

        Raises:
            BoxLostError: it is not there any more.
        """
        return await self._bring_up(box_id, notify, None)

    async def find(self, name_or_id: str) -> "AsyncSandbox | None":
        """Returns a box in whatever state. Raises SandboxError."""
        try:
            return await patiently(
                "a look at a sandbox",
                lambda: self._client.get(name_or_id, request_timeout=_EACH),
                each=_EACH,
                altogether=_CALL_PATIENCE,
                known=(Kind.MISSING,),
            )
        except CallFailedError:
            return None

    async def discard(self, name_or_id: str) -> None:
        """Deletes a box, also one that is just changing its state; it may be gone already. Raises SandboxError."""
        box = await self.find(name_or_id)
        if box is None or _state(box) in _GONE:
            return
        try:
            await patiently(
                "the deletion of a sandbox",
                lambda: box.delete(timeout=_EACH),
                each=_EACH,
                altogether=_DELETE_PATIENCE,
                passing=PASSING | {Kind.BUSY},
                known=(Kind.MISSING,),
            )
        except CallFailedError:
            return
        logger.info("box_deleted name=%s", name_or_id)

    async def renew(self, box: "AsyncSandbox", labels: Mapping[str, str]) -> None:
        """Renews the lease. Raises SandboxError."""
        fresh = {**labels, LEASE: self._lease_end()}
        await patiently("a lease", lambda: box.set_labels(fresh), each=_EACH, altogether=_CALL_PATIENCE)

    def labels(self, wanted: Wanted) -> dict[str, str]:
        """Returns the labels of a box that begins its lease now."""
        return {OWNER: self.terms.owner, KIND: wanted.kind, LEASE: self._lease_end()}

    def _lease_end(self) -> str:
        return str(int(time.time() + self.terms.lease))

    async def _bring_up(self, reference: str, notify: Notify, wanted: Wanted | None) -> "AsyncSandbox":
        start = _Start(self.terms, notify)
        while True:
            box = await self.find(reference)
            state = _state(box) if box else "destroyed"
            if box is not None and state == "started":
                self._require_ours(box)
                return box
            if box is not None and state in _SLEEPING:
                start.tell_restart(state)
                await self._wake(box, start)
            elif state in _BROKEN:
                start.count_broken(state)
                await self.discard(reference)
            elif state in _GONE and wanted is None:
                raise BoxLostError("the sandbox is gone, and with it its files")
            elif box is None and wanted is not None:
                await self._create(wanted, start)
                continue
            await start.wait(state)

    def _require_ours(self, box: "AsyncSandbox") -> None:
        if box.labels.get(OWNER) != self.terms.owner:
            raise RefusedError(
                "a sandbox of that name belongs to somebody else; give this service its own DAYTONA_OWNER"
            )

    async def _wake(self, box: "AsyncSandbox", start: "_Start") -> None:
        try:
            await patiently(
                "the start of a sandbox",
                lambda: box.start(timeout=_CREATE_WAITS),
                each=2 * _CREATE_WAITS,
                altogether=start.left(),
                passing=(),
                known=(*PASSING, Kind.BUSY, Kind.MISSING),
            )
        except CallFailedError as error:
            await start.suffer(error)

    async def _create(self, wanted: Wanted, start: "_Start") -> None:
        """Tries once; the caller looks what came of it. A cancellation waits for the end of the attempt."""
        attempt = asyncio.create_task(self._attempt_create(wanted, max(1.0, min(_CREATE_WAITS, start.left()))))
        try:
            await asyncio.wait([attempt], timeout=_TELL_AFTER)
            if not attempt.done():
                start.tell_slow("a new one is being made")
            await asyncio.shield(attempt)
        except asyncio.CancelledError:
            await asyncio.wait([attempt])
            attempt.exception()
            raise
        except CallFailedError as error:
            if error.failure.kind is Kind.MISSING:
                raise RefusedError("Daytona does not know the snapshot DAYTONA_DEV_TOOLS_SNAPSHOT_ID") from None
            await start.suffer(error)

    async def _attempt_create(self, wanted: Wanted, seconds: float) -> None:
        await patiently(
            "a new sandbox",
            lambda: self._client.create(self._parameters(wanted), timeout=seconds),
            each=2 * _CREATE_WAITS,
            altogether=2 * _CREATE_WAITS,
            passing=(),
            known=(*PASSING, Kind.BUSY, Kind.MISSING),
        )

    def _parameters(self, wanted: Wanted) -> "CreateSandboxFromSnapshotParams":
        """No environment, so that the box can come from a warm pool."""
        from daytona import CreateSandboxFromSnapshotParams  # noqa: PLC0415  # see `sdk`

        terms = self.terms
        is_own = wanted.kind == "execution"
        return CreateSandboxFromSnapshotParams(
            name=wanted.name,
            snapshot=terms.snapshot or None,
            labels=self.labels(wanted),
            auto_stop_interval=terms.auto_stop_minutes,
            ephemeral=True if is_own else None,
            ttl_minutes=terms.ttl_minutes if is_own else None,
            auto_delete_interval=None if is_own else terms.session_days * _MINUTES_PER_DAY,
        )


class _Start:
    """One wait for a box, with its end and with what has been told about it."""

    def __init__(self, terms: Terms, notify: Notify) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + terms.start_timeout
        self._seconds = terms.start_timeout
        self._notify = notify
        self._told: set[str] = set()
        self._attempts = 0
        self._broken = 0

    def left(self) -> float:
        """Returns how many seconds are left."""
        return self._end - self._loop.time()

    def tell_restart(self, state: str) -> None:
        """Tells once that what ran in the box is gone."""
        self._tell(
            "SANDBOX_RESTARTED",
            f"the sandbox was {state} and is started again: its files are there, processes and memory are gone",
        )

    def tell_slow(self, why: str) -> None:
        """Tells once for each reason that there is a wait."""
        self._tell("SANDBOX_STARTING", f"the sandbox is not ready yet: {why}")

    def count_broken(self, state: str) -> None:
        """Allows for one box that comes up broken."""
        self._broken += 1
        if self._broken > 1:
            raise SandboxError(f"the sandbox does not start: Daytona says {state}")

    async def suffer(self, error: CallFailedError) -> None:
        """Waits after a failure that may pass, as long as it asks for. Raises SandboxError when there is no time."""
        delay = pause(self._attempts, error.failure)
        if delay > self.left():
            if error.failure.kind is Kind.TRANSIENT:
                raise SandboxError(f"the sandbox did not start within {self._seconds:g} s") from None
            raise ended(error.failure, "a new sandbox") from None
        self._attempts += 1
        await asyncio.sleep(delay)

    async def wait(self, state: str) -> None:
        """Waits for the next look. Raises SandboxError when it took too long."""
        if self.left() <= 0:
            raise SandboxError(f"the sandbox did not start within {self._seconds:g} s: Daytona says {state}")
        if state not in _SLEEPING | _GONE | _BROKEN:
            self.tell_slow(f"Daytona says {state}")
        await asyncio.sleep(min(_FIRST_POLL * 2**self._attempts, _LONGEST_POLL))
        self._attempts += 1

    def _tell(self, code: str, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            self._notify(code, text)


def _state(box: "AsyncSandbox") -> str:
    state = box.state
    return str(getattr(state, "value", state) or "unknown")
