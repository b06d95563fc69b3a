"""Announces requests for approval to APPROVAL_WEBHOOK_URL, signed, at least once each."""

import hashlib
import hmac
import json
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

import aiohttp

from runner_service.identity import ANY_TENANT, NO_KEY, OwnerKey
from runner_service.retries import exponential_backoff, retry
from runner_service.v1 import agent_runner_pb2 as runner_pb2

logger = logging.getLogger(__name__)

_MAX_ATTEMPTS = 6
_MIN_BACKOFF_SECONDS = 0.5
_MAX_BACKOFF_SECONDS = 16.0
_TIMEOUT = aiohttp.ClientTimeout(total=10)

Key = tuple[str, str, int]


class _StatusError(Exception):
    """The webhook answered with a status that is no success."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")


_FAILURES = (_StatusError, aiohttp.ClientError, TimeoutError)


class Changes(Protocol):
    """Yields what waits for approval, as `ApprovalService.changes` does."""

    def __call__(
        self, tenant: str, session_id: OwnerKey
    ) -> AsyncGenerator[list[runner_pb2.PendingApproval] | None, None]:
        """Yields for ever."""


class ApprovalWebhook:
    """Sends a POST for each request that is new. After a restart what still waits is sent again.

    The body is JSON: `execution_id`, `session_id`, `tenant`, `agent_name`, `tool_call_id`, `generation`, `tool`,
    `reason`, `expire_time`. Arguments are not in it: who wants them asks ListApprovals.
    """

    def __init__(self, url: str, secret: str | None, changes: Changes) -> None:
        self._url = url
        self._secret = secret
        self._changes = changes
        self._announced: set[Key] = set()

    async def run(self) -> None:
        """Announces until cancelled, or until the service stops."""
        async with (
            aiohttp.ClientSession(timeout=_TIMEOUT) as session,
            aclosing(self._changes(ANY_TENANT, NO_KEY)) as changes,
        ):
            async for pending in changes:
                if pending is None:
                    continue
                waiting = {_key(each) for each in pending}
                self._announced &= waiting
                for approval in pending:
                    if _key(approval) not in self._announced:
                        await self._announce(session, approval)
                        self._announced.add(_key(approval))

    async def _announce(self, session: aiohttp.ClientSession, approval: runner_pb2.PendingApproval) -> None:
        body = _body(approval)

        async def post() -> None:
            async with session.post(
                self._url, data=body, headers=self._headers(body), allow_redirects=False
            ) as response:
                if response.status >= 300:  # noqa: PLR2004  # HTTP's own
                    raise _StatusError(response.status)

        def delay_after(error: Exception, attempt: int) -> float | None:
            if not isinstance(error, _FAILURES):
                return None
            reason = str(error) if isinstance(error, _StatusError) else type(error).__name__
            logger.warning("approval_webhook_failed execution=%s reason=%s", approval.execution_id, reason)
            if attempt == _MAX_ATTEMPTS:
                return None
            return exponential_backoff(attempt, initial=_MIN_BACKOFF_SECONDS, maximum=_MAX_BACKOFF_SECONDS)

        try:
            await retry(post, delay_after)
        except _FAILURES:
            logger.error("approval_webhook_given_up execution=%s", approval.execution_id)  # noqa: TRY400  # said above

    def _headers(self, body: bytes) -> dict[str, str]:
        timestamp = str(int(time.time()))
        headers = {"Content-Type": "application/json", "X-Runner-Timestamp": timestamp}
        if self._secret:
            mac = hmac.new(self._secret.encode(), f"{timestamp}.".encode() + body, hashlib.sha256)
            headers["X-Runner-Signature"] = f"sha256={mac.hexdigest()}"
        return headers


def _key(approval: runner_pb2.PendingApproval) -> Key:
    return f"{approval.tenant}~{approval.execution_id}", approval.request.tool_call_id, approval.request.generation


def _body(approval: runner_pb2.PendingApproval) -> bytes:
    return json.dumps(
        {
            "execution_id": approval.execution_id,
            "session_id": approval.session_id,
            "tenant": approval.tenant,
            "agent_name": approval.agent_name,
            "tool_call_id": approval.request.tool_call_id,
            "generation": approval.request.generation,
            "tool": approval.request.name,
            "reason": approval.request.reason,
            "expire_time": approval.request.expire_time.ToJsonString(),
        }
    ).encode()
