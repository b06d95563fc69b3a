"""The whole service on Redis 8, beside the conformance suite of the storage."""

from pathlib import Path

import pytest
from tests.emulator import running_emulator
from tests.running import StartProcess, command, one, stdout_of, turn
from tests.scale.redis_server import redis_8_path, redis_server
from tests.scale.replicas import BEGUN_AND_WAITS, Deployment, kind, resumed

from runner_service.v1 import execution_event_pb2 as event_pb2

pytestmark = [
    pytest.mark.skipif(redis_8_path() is None, reason="Redis 8 is missing: requirements/redis-server.txt has it"),
    pytest.mark.long,
]


async def test_executions_are_followed_taken_over_and_ended_on_redis_8(
    start_process: StartProcess, tmp_path: Path
) -> None:
    async with (
        redis_server(tmp_path / "redis", program=redis_8_path()) as redis,
        running_emulator(tmp_path / "cloud") as cloud,
    ):
        with redis.client as client:
            assert int(client.info("server")["redis_version"].split(".")[0]) >= 8
        deployment = Deployment(redis, cloud, start_process, tmp_path)
        turns = [turn("Look.", command(f"{BEGUN_AND_WAITS}; echo ended")), turn("The end.")]
        await deployment.start(turns, count=2)
        await deployment.begin(0, "e", until="tool_output")
        watcher = deployment.watch(1, execution_id="e")
        await watcher.until(kind("tool_output"))
        await deployment.kill(0)
        deployment.let_go()
        events = await watcher.ended()
    assert len([event for event in events if resumed(event)]) == 1
    assert stdout_of(events) == b"begun\nended\n"
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
