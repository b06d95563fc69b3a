"""Measures event loop lag."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from runner_service.telemetry import metrics

logger = logging.getLogger(__name__)

_INTERVAL_SECONDS = 0.1
_LOG_THRESHOLD_SECONDS = 1.0
_KEPT_SAMPLES = 100


class LoopLag:
    """The lag of the last 10 s."""

    def __init__(self) -> None:
        self._samples: deque[float] = deque([0.0], _KEPT_SAMPLES)

    @property
    def highest_seconds(self) -> float:
        """The highest lag."""
        return max(self._samples)

    def record(self, seconds: float) -> None:
        """Adds a sample."""
        self._samples.append(seconds)


@asynccontextmanager
async def monitored_loop() -> AsyncIterator[LoopLag]:
    """Measures the lag while the context is open, and logs a lag of 1 s or more."""
    measured = LoopLag()
    watch = asyncio.create_task(_watch(measured), name="loop-lag")
    try:
        yield measured
    finally:
        watch.cancel()
        await asyncio.wait([watch])


async def _watch(measured: LoopLag) -> None:
    loop = asyncio.get_running_loop()
    while True:
        due = loop.time() + _INTERVAL_SECONDS
        await asyncio.sleep(_INTERVAL_SECONDS)
        lag = max(0.0, loop.time() - due)
        metrics.loop_lagged(lag)
        measured.record(lag)
        if lag >= _LOG_THRESHOLD_SECONDS:
            logger.warning("loop_lagged seconds=%.1f", lag)
