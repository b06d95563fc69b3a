"""The wait for a sandbox to start: its deadline, its pace and its notices."""

import asyncio

from runner_service.executors.daytona.config import Notify
from runner_service.executors.daytona.failures import FailureKind, as_sandbox_error, retry_delay
from runner_service.executors.daytona.retries import CallFailedError
from runner_service.executors.protocol import SandboxError

_FIRST_POLL_INTERVAL_SECONDS, _MAX_POLL_INTERVAL_SECONDS = 0.05, 1.0
_QUIET_STATES = frozenset({"stopped", "archived", "paused", "error", "build_failed", "destroyed", "destroying"})


class StartWait:
    """One wait for a sandbox: its deadline and the notices already sent."""

    def __init__(self, timeout_seconds: float, notify: Notify) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = self._loop.time() + timeout_seconds
        self._seconds = timeout_seconds
        self._notify = notify
        self._sent: set[str] = set()
        self._attempts = 0
        self._failed_starts = 0
        self.has_created = False

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
                raise self.timed_out() from None
            raise as_sandbox_error(error.failure, "a new sandbox") from None
        self._attempts += 1
        await asyncio.sleep(delay)

    async def wait_for_poll(self, state: str) -> None:
        """Waits before the next poll. Raises SandboxError on timeout."""
        if self.left() <= 0:
            raise self.timed_out(f": Daytona says {state}")
        if state not in _QUIET_STATES:
            self.notify_slow(f"Daytona says {state}")
        await asyncio.sleep(min(_FIRST_POLL_INTERVAL_SECONDS * 2**self._attempts, _MAX_POLL_INTERVAL_SECONDS))
        self._attempts += 1

    def timed_out(self, why: str = "") -> SandboxError:
        """Returns the error of a wait that is over."""
        return SandboxError(f"the sandbox did not start within {self._seconds:g} s{why}")

    def _notify_once(self, code: str, text: str) -> None:
        if text not in self._sent:
            self._sent.add(text)
            self._notify(code, text)
