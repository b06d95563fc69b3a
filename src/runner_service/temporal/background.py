"""Starts the Temporal worker without loading its SDK: that takes a second, which nobody is to wait for."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, NamedTuple

from runner_service.agent.loader import LazyAgentLoop
from runner_service.executions.readiness import Readiness
from runner_service.executions.service import ExecutionService
from runner_service.settings import Settings
from runner_service.storage.activities import ActivityStore
from runner_service.storage.event_log import EventLog, LogError
from runner_service.telemetry import metrics
from runner_service.v1 import agent_runner_pb2 as runner_pb2

if TYPE_CHECKING:
    from runner_service.stigmer.daemon import Daemon

logger = logging.getLogger(__name__)

TEMPORAL_HEALTH = "temporal"
"""The health service that shows whether Temporal answers; NOT_FOUND when the worker is off."""


_RETRY_DELAY_SECONDS = 5.0


class WorkerParts(NamedTuple):
    """What the worker works with. `check` validates a request as every call of ExecuteAgent is."""

    settings: Settings
    executions: ExecutionService
    log: EventLog
    store: ActivityStore
    daemon: "Daemon | None"
    readiness: Readiness
    check: Callable[[runner_pb2.ExecuteAgentRequest], None]
    agent_loop: LazyAgentLoop


@asynccontextmanager
async def temporal_in_background(parts: WorkerParts, serving: asyncio.Event) -> AsyncIterator[None]:
    """Runs the worker from when the service is `serving` until the context ends."""
    parts.readiness.set_neighbour(TEMPORAL_HEALTH, is_there=False)
    if find_spec("temporalio") is None:
        logger.warning("temporal_not_installed consequence=only_grpc_is_served next=install_runner-service[temporal]")
        yield
        return
    running = asyncio.create_task(_run(parts, serving), name="temporal")
    unreachable = {metrics.TEMPORAL_UNREACHABLE: lambda: int(parts.readiness.neighbour(TEMPORAL_HEALTH) is not True)}
    try:
        with metrics.gauges_observed(unreachable):
            yield
    finally:
        running.cancel()
        await asyncio.wait([running])


async def _run(parts: WorkerParts, serving: asyncio.Event) -> None:
    await serving.wait()
    try:
        worker = await asyncio.to_thread(import_module, "runner_service.temporal.worker")
        while True:
            try:
                async with worker.temporal_worker(parts):
                    await asyncio.Event().wait()
            except LogError as error:
                logger.warning("temporal_waits reason=%s consequence=no_activities_are_taken", error)
            await asyncio.sleep(_RETRY_DELAY_SECONDS)
    except Exception:
        logger.exception("temporal_failed consequence=no_activities_are_taken")
