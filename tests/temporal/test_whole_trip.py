"""A skill, an MCP server, a sub-agent, shell work, a cancellation, and a kill in the middle, all through Temporal."""

import asyncio
from pathlib import Path

import grpc
from temporalio.client import Client
from tests.stigmer.fake_daemon import FakeDaemon
from tests.stigmer.test_end_to_end import (
    check_cancelled,
    check_work,
    fill,
    phases,
    seen_by_subscribing,
    started_by,
    until_calls,
)
from tests.temporal.daemon_workflow import Timeouts, ended, invoke
from tests.temporal.server import needs_temporal

from runner_service.stigmer.wire import agentexecution_pb2 as execution_pb2

pytestmark = needs_temporal


async def test_the_daemon_sees_every_execution_to_its_end(
    client: Client, daemon: FakeDaemon, variables: dict[str, str], queue: str, tmp_path: Path
) -> None:
    fill(daemon)
    variables = {name: value for name, value in variables.items() if not name.startswith("STIGMER")}
    async with grpc.aio.insecure_channel(daemon.address) as channel:
        seen, seen_other = (
            asyncio.create_task(seen_by_subscribing(channel, name)) for name in ("aex-work", "aex-other")
        )
        async with started_by(daemon, tmp_path, **variables) as service:
            work = await invoke(client, daemon, "aex-work", queue, Timeouts(heartbeat=100))
            other = await invoke(client, daemon, "aex-other", queue)
            await until_calls(daemon, "aex-work", 6)
            await service.client.started("aex-other")
            await other.cancel()
            await daemon.until_final("aex-other")
            await service.kill()
        assert daemon.status("aex-work").phase == execution_pb2.EXECUTION_IN_PROGRESS

        async with started_by(daemon, tmp_path, **variables):
            await asyncio.to_thread((tmp_path / "workspace" / "ses-aex-work" / "go").touch)
            assert await ended(work) == "COMPLETED"
        async with asyncio.timeout(60):
            statuses, statuses_other = await seen, await seen_other

    check_work(statuses[-1])
    check_cancelled(statuses_other[-1])
    assert await ended(other) == "CANCELED"
    assert phases(statuses) == [execution_pb2.EXECUTION_IN_PROGRESS, execution_pb2.EXECUTION_COMPLETED]
