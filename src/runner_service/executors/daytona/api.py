"""The calls of the Daytona API that sandboxes need, with their retries."""

import logging
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, TypeVar

from runner_service.executors.daytona.config import LEASE, OWNER, SandboxConfig
from runner_service.executors.daytona.create_parameters import SandboxParameters
from runner_service.executors.daytona.failures import FailureKind, IncompatibleServerError
from runner_service.executors.daytona.raw_api import RawApi
from runner_service.executors.daytona.retries import RETRYABLE, CallFailedError, retry

if TYPE_CHECKING:
    from daytona import AsyncDaytona, AsyncSandbox

T = TypeVar("T")

logger = logging.getLogger(__name__)

_ATTEMPT_TIMEOUT_SECONDS = 15.0
_CALL_TIMEOUT_SECONDS = 60.0
_DELETE_TIMEOUT_SECONDS = 90.0
DELETED_STATES = frozenset({"destroyed", "destroying"})


class SandboxApi:
    """Finds, lists and deletes sandboxes."""

    def __init__(self, client: "AsyncDaytona", raw_api: RawApi, config: SandboxConfig) -> None:
        self._client = client
        self._raw_api = raw_api
        self._parameters = SandboxParameters(client, config)
        self.config = config

    async def list_by_labels(self, labels: Mapping[str, str]) -> "list[AsyncSandbox]":
        """Lists the sandboxes of this owner with these labels; may be some seconds old. Raises SandboxError."""
        from daytona import ListSandboxesQuery  # noqa: PLC0415  # see `sdk`

        query = ListSandboxesQuery(labels={OWNER: self.config.owner, **labels})

        async def attempt() -> "list[AsyncSandbox]":
            return [sandbox async for sandbox in self._client.list(query, request_timeout=_ATTEMPT_TIMEOUT_SECONDS)]

        return await self.call(
            "the list of sandboxes",
            attempt,
            attempt_timeout=_CALL_TIMEOUT_SECONDS,
            total_timeout=2 * _CALL_TIMEOUT_SECONDS,
        )

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
            if sandbox is None or state_of(sandbox) in DELETED_STATES:
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

    async def renew_lease(self, sandbox: "AsyncSandbox") -> None:
        """Renews the lease and postpones auto-stop. Raises SandboxError."""
        fresh = {**sandbox.labels, LEASE: self._parameters.lease_end()}
        await self.call("the lease of a sandbox", lambda: sandbox.set_labels(fresh))
        await self.call("a sign of life", sandbox.refresh_activity)

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


def state_of(sandbox: "AsyncSandbox") -> str:
    """Returns the state of a sandbox, as it was last read."""
    state = sandbox.state
    return str(getattr(state, "value", state) or "unknown")
