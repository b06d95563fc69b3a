"""The calls that are open, each with its caller, so that one that is no longer allowed can be ended."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager

from runner_service.api.callers.delegation import Metadata, acting
from runner_service.api.callers.open_counts import OpenCounts
from runner_service.api.callers.roles import require_role
from runner_service.errors import (
    CallError,
    CredentialExpiredError,
    CredentialRevokedError,
    PermissionDeniedError,
    UnauthenticatedError,
)
from runner_service.executions.audit import Audit
from runner_service.executions.tenant_limits import Tenants
from runner_service.identity import Caller

Identify = Callable[[], Caller]
"""Finds out again who makes a call, and whether they may. Raises CallError."""

_MAX_SLICE_SECONDS = 0.001


class OpenCall:
    """One call. `refusal` is why it was ended, if it was."""

    def __init__(self, caller: Caller, identify: Identify, task: "asyncio.Task[object]") -> None:
        self.caller = caller
        self.refusal: CallError | None = None
        self._identify = identify
        self._task = task

    def end_if_refused(self) -> None:
        """Ends the call if its caller would not be let in now."""
        if self.refusal is None and (refusal := self._current_refusal()):
            self.refusal = refusal
            self._task.cancel()

    def _current_refusal(self) -> CallError | None:
        try:
            found = self._identify()
        except CredentialExpiredError as error:
            return error
        except CallError as error:
            return CredentialRevokedError(f"{self.caller.name} may no longer make this call: {error.message}")
        if (found.name, found.tenant) != (self.caller.name, self.caller.tenant):
            return CredentialRevokedError(f"the credential of {self.caller.name} is now another caller's")
        return None


class AdmittedCalls:
    """The open calls of all listeners. Belongs to the event loop."""

    def __init__(self, tenants: Tenants, audit: Audit) -> None:
        self.counts = OpenCounts(tenants)
        self._audit = audit
        self._calls: set[OpenCall] = set()

    @asynccontextmanager
    async def admitted(self, caller: Caller, method: str, identify: Identify) -> AsyncIterator[None]:
        """Holds a call of the current task.

        Raises:
            QuotaExceededError: its tenant has as many calls open as it may.
            CallError: the caller was refused while the call was open.
        """
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("calls are made by tasks")
        call = OpenCall(caller, identify, task)
        self._calls.add(call)
        try:
            await self.counts.opened(caller.tenant)
            try:
                if caller.tenant != caller.home_tenant:
                    self._audit.record("ACT_FOR", rpc=_rpc(method), caller=caller)
                yield
            finally:
                self.counts.closed(caller.tenant)
        except asyncio.CancelledError:
            if call.refusal is None:
                raise
            task.uncancel()
            raise call.refusal from None
        finally:
            self._calls.discard(call)

    def allow(self, caller: Caller, metadata: Metadata, method: str) -> Caller:
        """Returns the caller as it acts in a call; a refusal is audited.

        Raises:
            InvalidRequestError: the metadata names several tenants, or no tenant at all.
            PermissionDeniedError: the caller may not act for that tenant, or has no role for the method.
        """
        try:
            acts = acting(caller, metadata)
            require_role(acts, method)
        except PermissionDeniedError as error:
            self._audit.record("REFUSED", rpc=_rpc(method), text=error.message, caller=caller)
            raise
        return acts

    @contextmanager
    def counting_unknown(self) -> Iterator[None]:
        """Counts callers that are not known, by the UnauthenticatedError that the context raises."""
        try:
            yield
        except UnauthenticatedError as error:
            self._audit.count_unknown(error)
            raise

    async def end_refused(self, *, is_changed: bool) -> None:
        """Ends what is no longer allowed: of all calls after a change, else of those whose time is over."""
        now = time.time()
        due = [call for call in self._calls if is_changed or call.caller.until <= now]
        began = time.perf_counter()
        for call in due:
            call.end_if_refused()
            if time.perf_counter() - began > _MAX_SLICE_SECONDS:  # signed tokens are verified again
                await asyncio.sleep(0)
                began = time.perf_counter()


def _rpc(method: str) -> str:
    return method.rpartition("/")[2]
