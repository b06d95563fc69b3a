"""What has to be done to its end, whoever is cancelled meanwhile."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

T = TypeVar("T")


async def finished(work: Awaitable[T]) -> T:
    """Returns what `work` does, however often this task is cancelled meanwhile; only then the cancellation goes on.

    Every await in `work` needs a bound. Raises what it raises, unless there is a cancellation to go on.
    """
    doing = asyncio.ensure_future(work)
    is_cancelled = False
    while not doing.done():
        try:
            await asyncio.wait([doing])
        except asyncio.CancelledError:
            is_cancelled = True
    if not is_cancelled:
        return doing.result()
    if not doing.cancelled():
        doing.exception()  # nobody will ask for it
    raise asyncio.CancelledError
