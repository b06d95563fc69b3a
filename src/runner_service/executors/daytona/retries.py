"""Retries one SDK call while its failure is transient, up to a timeout."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from runner_service.executors.daytona.failures import Failure, FailureKind, as_sandbox_error, classify, retry_delay
from runner_service.retries import retry as retry_call

T = TypeVar("T")

logger = logging.getLogger(__name__)

RETRYABLE = frozenset({FailureKind.TRANSIENT, FailureKind.RATE_LIMITED})
"""Failures that pass by themselves."""

_MAX_KEY_REFUSALS = 4
"""Daytona refuses valid keys now and then under load: only this many refusals in a row are believed."""


class CallFailedError(Exception):
    """A call failed in a way that its caller handles."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


async def retry(
    operation: str,
    attempt: Callable[[], Awaitable[T]],
    *,
    attempt_timeout: float,
    total_timeout: float,
    retryable: Collection[FailureKind] = RETRYABLE,
    handled: Collection[FailureKind] = (),
) -> T:
    """Calls `attempt` until it succeeds, retrying `retryable` failures for at most `total_timeout` seconds.

    Each attempt takes at most `attempt_timeout` seconds.

    Raises:
        CallFailedError: for the `handled` kinds.
        SandboxError: for all others, and on timeout.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + total_timeout
    refusals = 0

    async def bounded_attempt() -> T:
        async with asyncio.timeout(max(0.1, min(attempt_timeout, end - loop.time()))):
            return await attempt()

    def delay_after(error: Exception, number: int) -> float | None:
        nonlocal refusals
        failure = classify(error)
        if failure is None or failure.kind in handled:
            return None
        refusals = refusals + 1 if failure.kind is FailureKind.UNAUTHENTICATED else 0
        passes = failure.kind in retryable or 0 < refusals < _MAX_KEY_REFUSALS
        delay = retry_delay(number - 1, failure)
        if not passes or loop.time() + delay > end:
            return None
        logger.info("daytona_retries operation=%s failure=%s attempt=%d", operation.replace(" ", "_"), failure, number)
        return delay

    try:
        return await retry_call(bounded_attempt, delay_after)
    except Exception as error:  # the SDK's classes are not loaded here; `classify` knows them
        failure = classify(error)
        if failure is None:
            raise
        if failure.kind in handled:
            raise CallFailedError(failure) from error
        # The original text may hold a URL with a token.
        raise as_sandbox_error(failure, operation) from None
