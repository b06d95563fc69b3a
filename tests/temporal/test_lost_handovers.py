"""A service that is killed when Temporal has just handed something over to it, or cannot store that."""

import asyncio
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2
from temporalio.api.enums.v1 import PendingActivityState
from temporalio.client import Client, WorkflowHandle
from tests.running import StartProcess, StartService, command, turn
from tests.stigmer.fake_daemon import FakeDaemon
from tests.temporal.daemon_workflow import Timeouts, daemon_worker, ended, invoke
from tests.temporal.server import TemporalServer, needs_temporal
from tests.temporal.waiting import GATE, open_gate, until_calls, until_health

from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2

pytestmark = needs_temporal

SERVING = health_pb2.HealthCheckResponse.SERVING
SCHEDULED = PendingActivityState.PENDING_ACTIVITY_STATE_SCHEDULED
STARTED = PendingActivityState.PENDING_ACTIVITY_STATE_STARTED
TURNS = [turn("", command("echo once >> marks; cat marks")), turn("Done.")]


async def pending_states(handle: WorkflowHandle[Any, Any]) -> list[tuple[str, int]]:
    """The activities that a workflow waits for."""
    found = (await handle.describe()).raw_description.pending_activities
    return [(each.activity_type.name, each.state) for each in found]


async def until_pending(handle: WorkflowHandle[Any, Any], expected: list[tuple[str, int]]) -> None:
    async with asyncio.timeout(60):
        while await pending_states(handle) != expected:
            await asyncio.sleep(0.05)


async def killed_at_the_handover(
    start_process: StartProcess, temporal: TemporalServer, daemon: FakeDaemon, variables: dict[str, str], queue: str
) -> WorkflowHandle[Any, Any]:
    """Returns a workflow whose activity was handed to a service that had no moment to see it.

    The service is stopped, in the sense of SIGSTOP, while its poll waits for an answer.
    """
    client = await temporal.client()
    async with daemon_worker(client, daemon, queue):
        handle = await invoke(client, daemon, "aex-1", queue, Timeouts(heartbeat=100))
        await until_pending(handle, [("EnsureThread", SCHEDULED)])
    service = await start_process(TURNS, **variables)
    await until_pending(handle, [])
    service.process.send_signal(signal.SIGSTOP)
    async with daemon_worker(client, daemon, queue):
        await until_pending(handle, [("ExecuteGraphton", STARTED)])
    await service.kill()
    return handle


async def test_what_was_handed_over_in_the_moment_of_a_kill_is_taken_by_the_next_process(
    start_process: StartProcess, temporal: TemporalServer, daemon: FakeDaemon, variables: dict[str, str], queue: str
) -> None:
    daemon.execution("aex-1")
    handle = await killed_at_the_handover(start_process, temporal, daemon, variables, queue)

    await start_process([], **variables)
    async with daemon_worker(await temporal.client(), daemon, queue):
        assert await ended(handle) == "COMPLETED"

    status = daemon.status("aex-1")
    assert status.phase == execution_pb2.EXECUTION_COMPLETED
    assert [call.result.split()[0] for call in status.tool_calls] == ["once"]
    assert status.messages[-1].content == "Done."


@contextmanager
def activities_not_stored(state_dir: Path) -> Iterator[None]:
    """Makes the store refuse what is new, as a full disk does."""
    connection = sqlite3.connect(state_dir / "activities.db", isolation_level=None)
    refusal = "BEFORE INSERT ON activities BEGIN SELECT RAISE(FAIL, 'database or disk is full'); END"
    connection.execute(f"CREATE TRIGGER full {refusal}")
    yield
    connection.execute("DROP TRIGGER full")
    connection.close()


async def test_an_activity_is_run_to_its_end_although_it_cannot_be_stored(
    start: StartService,
    client: Client,
    daemon: FakeDaemon,
    variables: dict[str, str],
    queue: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    daemon.execution("aex-1")
    caller = await start(TURNS, **variables)
    await until_health(caller.service.address, SERVING)
    with activities_not_stored(tmp_path / "state"):
        assert await ended(await invoke(client, daemon, "aex-1", queue)) == "COMPLETED"

    assert daemon.status("aex-1").phase == execution_pb2.EXECUTION_COMPLETED
    assert "activity_not_stored" in caplog.text


async def test_an_activity_that_could_not_be_stored_is_taken_by_the_next_process(
    start_process: StartProcess,
    client: Client,
    daemon: FakeDaemon,
    variables: dict[str, str],
    queue: str,
    tmp_path: Path,
) -> None:
    daemon.execution("aex-1")
    service = await start_process([turn("", command(GATE)), turn("Done.")], **variables)
    await until_health(service.address, SERVING)
    with activities_not_stored(tmp_path / "state"):
        handle = await invoke(client, daemon, "aex-1", queue)
        await until_calls(daemon, "aex-1")
        await service.kill()

    await start_process([], **variables)
    await asyncio.to_thread(open_gate, tmp_path)

    assert await ended(handle) == "COMPLETED"
    assert daemon.status("aex-1").phase == execution_pb2.EXECUTION_COMPLETED
    assert daemon.status("aex-1").messages[-1].content == "Done."
