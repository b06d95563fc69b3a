"""Activities of Temporal that several replicas poll for: whichever lives completes them."""

import asyncio
import signal
from typing import Any

import pytest
from temporalio.client import WorkflowHandle
from tests.running import command, turn
from tests.scale.redis_server import needs_redis
from tests.scale.replicas import Deployment
from tests.stigmer.conftest import daemon
from tests.stigmer.fake_daemon import FakeDaemon
from tests.temporal.conftest import client, queue, temporal, variables
from tests.temporal.daemon_workflow import Timeouts, daemon_worker, ended, invoke
from tests.temporal.server import TemporalServer, needs_temporal
from tests.temporal.test_lost_handovers import SCHEDULED, STARTED, until_pending
from tests.temporal.waiting import until, until_calls

from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

__all__ = ["client", "daemon", "queue", "temporal", "variables"]
pytestmark = [needs_redis, needs_temporal, pytest.mark.long]

TURNS = [turn("", command("echo begun; sleep 4; echo once >> marks; cat marks")), turn("Done.")]
LONG = [turn("", command("echo begun; sleep 600"))]


def require_done_once(daemon: FakeDaemon) -> None:
    status = daemon.status("aex-1")
    assert status.phase == execution_pb2.EXECUTION_COMPLETED
    assert [call.result.split().count("once") for call in status.tool_calls] == [1]
    assert status.messages[-1].content == "Done."


@pytest.fixture
async def handle(client: Any, daemon: FakeDaemon, queue: str) -> WorkflowHandle[Any, Any]:
    """A workflow of the daemon's, whose activity has one try."""
    daemon.execution("aex-1")
    return await invoke(client, daemon, "aex-1", queue, Timeouts(heartbeat=100))


async def test_16_a_workflow_completes_although_the_replica_that_took_its_activity_is_killed(
    deployment: Deployment, daemon: FakeDaemon, variables: dict[str, str], handle: WorkflowHandle[Any, Any]
) -> None:
    await deployment.start(TURNS, 1, **variables)
    await until_calls(daemon, "aex-1")
    await deployment.start(TURNS, 1, **variables)
    await deployment.kill(0)
    assert await ended(handle) == "COMPLETED"
    require_done_once(daemon)


async def test_16_the_cancel_of_a_workflow_ends_its_command_at_the_replica_that_took_over(
    deployment: Deployment, daemon: FakeDaemon, variables: dict[str, str], handle: WorkflowHandle[Any, Any]
) -> None:
    variables["TEMPORAL_HEARTBEAT_INTERVAL"] = "1"
    await deployment.start(LONG, 1, **variables)
    await until_calls(daemon, "aex-1")
    await deployment.start(LONG, 1, **variables)
    await deployment.kill(0)
    watcher = deployment.watch(1, execution_id="aex-1")
    await watcher.until(lambda event: event.started.resumed)
    await handle.cancel()
    events = await watcher.ended()
    assert events[-1].finished.state == event_pb2.STATE_CANCELLED
    await until(daemon, lambda: daemon.status("aex-1").phase == execution_pb2.EXECUTION_CANCELLED)


async def test_16_what_was_handed_to_a_replica_in_the_moment_of_its_death_is_taken_by_another(
    deployment: Deployment, daemon: FakeDaemon, variables: dict[str, str], temporal: TemporalServer, queue: str
) -> None:
    client = await temporal.client()
    daemon.execution("aex-1")
    async with daemon_worker(client, daemon, queue):
        handle = await invoke(client, daemon, "aex-1", queue, Timeouts(heartbeat=100))
        await until_pending(handle, [("EnsureThread", SCHEDULED)])
    await deployment.start(TURNS, 1, **variables)
    await until_pending(handle, [])
    deployment.signal(0, signal.SIGSTOP)  # its poll goes on waiting for an answer
    async with daemon_worker(client, daemon, queue):
        await until_pending(handle, [("ExecuteGraphton", STARTED)])
        await deployment.kill(0)
        await deployment.start(TURNS, 1, **variables)
        async with asyncio.timeout(60):
            assert await ended(handle) == "COMPLETED"
    require_done_once(daemon)
