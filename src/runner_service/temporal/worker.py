"""Polls the task queue, beside the gRPC service and never in its way."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta

from temporalio.worker import Worker

from runner_service.errors import ExecutionEnd
from runner_service.executions.readiness import Readiness, Stage
from runner_service.telemetry import metrics
from runner_service.temporal.activities import Activities
from runner_service.temporal.attempt import Services
from runner_service.temporal.background import TEMPORAL_HEALTH, WorkerParts
from runner_service.temporal.connection import Connection
from runner_service.temporal.contracts import AGENT, GRAPHTON, AgentContract, Contract, GraphtonContract
from runner_service.temporal.lost_handovers import LostHandovers
from runner_service.temporal.open_attempts import Attempts

logger = logging.getLogger(__name__)

_RESTART_DELAY_SECONDS = 5.0
_MAX_REASON_CHARACTERS = 300
_ACCEPT_TIMEOUT = timedelta(seconds=5)


@asynccontextmanager
async def temporal_worker(parts: WorkerParts) -> AsyncIterator[None]:
    """Takes activities until the service drains, and completes them until the context ends.

    Raises:
        LogError: the open activities cannot be read.
    """
    settings, readiness = parts.settings, parts.readiness
    identity = await parts.store.new_identity()

    def on_change(is_there: bool) -> None:
        readiness.set_neighbour(TEMPORAL_HEALTH, is_there=is_there)

    connection = Connection(settings, str(identity), on_change)
    services = Services(settings, parts.executions, parts.log, readiness, parts.store, connection)
    async with asyncio.TaskGroup() as tasks:
        contracts: dict[str, Contract] = {GRAPHTON: GraphtonContract(parts.daemon), AGENT: AgentContract()}
        attempts = Attempts(services, contracts, tasks)
        background = [
            tasks.create_task(connection.run(), name="temporal-connection"),
            tasks.create_task(LostHandovers(services, attempts).run(), name="temporal-handovers"),
            tasks.create_task(_poll_when_loaded(parts, services, attempts), name="temporal-worker"),
        ]
        try:
            await attempts.resume_stored()
            with metrics.gauges_observed({metrics.TEMPORAL_ACTIVITIES: lambda: attempts.count}):
                yield
        finally:
            attempts.stop()
            for each in background:
                each.cancel()


async def _poll_when_loaded(parts: WorkerParts, services: Services, attempts: Attempts) -> None:
    """Polls once the agent loop is loaded: loading it holds up the event loop, and the SDK would poll meanwhile."""
    with suppress(ExecutionEnd):  # each execution tells why it cannot be loaded
        await parts.agent_loop.loaded()
    await _poll(services, Activities(attempts, parts.store, parts.check))


async def _poll(services: Services, activities: Activities) -> None:
    """Runs the worker until the service drains; one that fails is started again."""
    last_failure = ""
    while services.readiness.stage is Stage.SERVING:
        client = await services.connection.client()
        interval = timedelta(seconds=services.settings.temporal_heartbeat_interval)
        worker = Worker(
            client,
            task_queue=services.settings.temporal_agent_execution_runner_task_queue,
            activities=activities.all(),
            max_concurrent_activities=services.settings.temporal_max_concurrency,
            max_heartbeat_throttle_interval=interval,
            default_heartbeat_throttle_interval=interval,
            graceful_shutdown_timeout=_ACCEPT_TIMEOUT,
        )
        running = asyncio.create_task(worker.run(), name="temporal-poll")
        draining = asyncio.create_task(_until_draining(services.readiness))
        try:
            await asyncio.wait({running, draining}, return_when=asyncio.FIRST_COMPLETED)
            if not running.done():
                await worker.shutdown()
            await running
        except Exception as error:  # noqa: BLE001  # whatever it is, gRPC goes on, and it may pass
            if str(error) != last_failure:
                last_failure = str(error)
                reason = last_failure[:_MAX_REASON_CHARACTERS]
                logger.warning("temporal_worker_failed reason=%r consequence=it_is_started_again", reason)
            await asyncio.sleep(_RESTART_DELAY_SECONDS)
        finally:
            draining.cancel()
            await _stop(worker, running)


async def _until_draining(readiness: Readiness) -> None:
    while readiness.stage is Stage.SERVING:
        await readiness.changed()


async def _stop(worker: Worker, running: asyncio.Task[None]) -> None:
    """Stops polling, also when the context ends without a drain."""
    if not running.done():
        await worker.shutdown()
        await asyncio.wait({running})
