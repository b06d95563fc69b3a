"""Retries of one network call, by stamina."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from itertools import count
from typing import TypeVar

import stamina
from stamina.instrumentation import set_on_retry_hooks

T = TypeVar("T")

DelayAfter = Callable[[Exception, int], float | None]
"""Given an error and the number of the attempt, from 1: the seconds until the next attempt, None to give up."""

set_on_retry_hooks([])  # stamina would log errors whole, and their text may hold a URL with a token


async def retry(attempt: Callable[[], Awaitable[T]], delay_after: DelayAfter) -> T:
    """Calls `attempt` until it succeeds, or `delay_after` gives up on its error, which is raised then."""
    numbers = count(1)

    def backoff(error: Exception) -> timedelta | bool:
        delay = delay_after(error, next(numbers))
        return False if delay is None else timedelta(seconds=delay)

    async for each in stamina.retry_context(on=backoff, attempts=None, timeout=None):
        with each:
            return await attempt()
    raise AssertionError("retries ended without a result or an error")


def exponential_backoff(attempt: int, *, initial: float, maximum: float) -> float:
    """Returns the seconds to wait after an attempt, from 1: `initial`, doubling up to `maximum`."""
    return min(initial * 2.0 ** min(attempt - 1, 64), maximum)
