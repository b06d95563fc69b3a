"""Runs an awaitable to completion, deferring cancellation."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def run_to_completion(work: Awaitable[T]) -> T:
    """Returns the result of `work`; a cancellation meanwhile is raised once it is done.

    Every await in `work` needs a timeout. Raises what `work` raises, unless this task was cancelled.
    """
    task = asyncio.ensure_future(work)
    is_cancelled = False
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            is_cancelled = True
    if not is_cancelled:
        return task.result()
    if not task.cancelled():
        task.exception()  # marks it as retrieved
    raise asyncio.CancelledError
