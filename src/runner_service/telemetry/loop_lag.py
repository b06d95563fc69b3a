"""Measures event loop lag."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from runner_service.telemetry import metrics

logger = logging.getLogger(__name__)

_INTERVAL_SECONDS = 0.1
_LOG_THRESHOLD_SECONDS = 1.0


@asynccontextmanager
async def monitored_loop() -> AsyncIterator[None]:
    """Measures the lag while the context is open, and logs a lag of 1 s or more."""
    watch = asyncio.create_task(_watch(), name="loop-lag")
    try:
        yield
    finally:
        watch.cancel()
        await asyncio.wait([watch])


async def _watch() -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _INTERVAL_SECONDS
        await asyncio.sleep(_INTERVAL_SECONDS)
        lag = max(0.0, loop.time() - due)
        metrics.loop_lagged(lag)
        if lag >= _LOG_THRESHOLD_SECONDS:
            logger.warning("loop_lagged seconds=%.1f", lag)
