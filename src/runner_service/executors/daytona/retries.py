"""One call of the SDK, tried again while its failure may pass, with an end."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from typing import TypeVar

from runner_service.executors.daytona.failures import Failure, Kind, classify, ended, pause

T = TypeVar("T")

logger = logging.getLogger(__name__)

PASSING = frozenset({Kind.TRANSIENT, Kind.RATE_LIMITED})
"""What goes away by itself."""


class CallFailedError(Exception):
    """A call that failed in a way that its caller knows what to do about."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(str(failure))
        self.failure = failure


async def patiently(
    doing: str,
    attempt: Callable[[], Awaitable[T]],
    *,
    each: float,
    altogether: float,
    passing: Collection[Kind] = PASSING,
    known: Collection[Kind] = (),
) -> T:
    """Calls, and calls again after a `passing` failure, for at most `altogether` seconds; no attempt takes over `each`.

    Raises:
        CallFailedError: for the kinds that are `known` to the caller.
        SandboxError: for all others, or when it went on for too long.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + altogether
    number = 0
    while True:
        try:
            async with asyncio.timeout(max(0.1, min(each, end - loop.time()))):
                return await attempt()
        except Exception as error:  # the SDK's classes are not loaded here; `classify` knows them
            failure = classify(error)
            if failure is None:
                raise
            if failure.kind in known:
                raise CallFailedError(failure) from error
            delay = pause(number, failure)
            if failure.kind not in passing or loop.time() + delay > end:
                # Its own text may hold an address with a token, so only what it means goes on.
                raise ended(failure, doing) from None
        logger.info("daytona_retries doing=%s failure=%s attempt=%d", doing.replace(" ", "_"), failure, number)
        number += 1
        await asyncio.sleep(delay)
