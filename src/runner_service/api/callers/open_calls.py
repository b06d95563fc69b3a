"""The calls that are open, each with its caller, so that one that is no longer allowed can be ended."""

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from runner_service.errors import CallError, CredentialExpiredError, CredentialRevokedError
from runner_service.identity import Caller

Identify = Callable[[], Caller]
"""Finds out again who makes a call, and whether they may. Raises CallError."""

_BATCH = 200


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

    def __init__(self) -> None:
        self._calls: set[OpenCall] = set()

    @contextmanager
    def admitted(self, caller: Caller, identify: Identify) -> Iterator[None]:
        """Holds a call of the current task.

        Raises:
            CallError: the caller was refused while the call was open.
        """
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("calls are made by tasks")
        call = OpenCall(caller, identify, task)
        self._calls.add(call)
        try:
            yield
        except asyncio.CancelledError:
            if call.refusal is None:
                raise
            task.uncancel()
            raise call.refusal from None
        finally:
            self._calls.discard(call)

    async def end_refused(self, *, is_changed: bool) -> None:
        """Ends what is no longer allowed: of all calls after a change, else of those whose time is over."""
        now = time.time()
        due = [call for call in self._calls if is_changed or call.caller.until <= now]
        for start in range(0, len(due), _BATCH):
            for call in due[start : start + _BATCH]:
                call.end_if_refused()
            await asyncio.sleep(0)
