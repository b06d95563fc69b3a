"""Measures how late the event loop is: whatever holds it up shows here, whoever it was."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from runner_service.telemetry import metrics

logger = logging.getLogger(__name__)

_EVERY = 0.1
_WORTH_A_LINE = 1.0


@asynccontextmanager
async def watched_loop() -> AsyncIterator[None]:
    """Measures as long as the context is open, and logs what is late by a second or more."""
    watch = asyncio.create_task(_watch(), name="loop-lag")
    try:
        yield
    finally:
        watch.cancel()
        await asyncio.wait([watch])


async def _watch() -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _EVERY
        await asyncio.sleep(_EVERY)
        lag = max(0.0, loop.time() - due)
        metrics.loop_lagged(lag)
        if lag >= _WORTH_A_LINE:
            logger.warning("loop_lagged seconds=%.1f", lag)
