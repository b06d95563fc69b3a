"""The owner of an execution dies or is stopped: another replica goes on, and nothing is done twice.

The numbers in the names of tests are those of the acceptance tests in docs/scale-out.md.
"""

import asyncio

import pytest
from tests.running import command, kinds, one, stdout_of, text_of, turn
from tests.scale.redis_server import needs_redis
from tests.scale.replicas import Deployment, kind, resumed

from runner_service.v1 import execution_event_pb2 as event_pb2

pytestmark = [needs_redis, pytest.mark.timeout(120)]


async def test_an_execution_runs_whole_on_redis_and_is_seen_at_every_replica(deployment: Deployment) -> None:
    await deployment.start([turn("Look.", command("echo out")), turn("The end.")], count=2)
    await deployment.begin(0, "e")
    here, there = deployment.watch(0, execution_id="e"), deployment.watch(1, execution_id="e")
    events = await there.ended()
    assert await here.ended() == events
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
    assert stdout_of(events) == b"out\n"
    assert text_of(events) == "Look.The end."


async def test_1_kill_of_the_owner_in_mid_sentence(deployment: Deployment) -> None:
    slow = turn("one two three four five six seven eight nine ten eleven twelve", delay=0.4)
    await deployment.start([slow], count=2)
    await deployment.begin(0, "e", until="text_delta")
    watcher, moving = deployment.watch(1, execution_id="e"), deployment.watch(0, 1, execution_id="e")
    await watcher.until(kind("text_delta"))
    loop = asyncio.get_running_loop()
    await deployment.kill(0)
    killed = loop.time()
    await watcher.until(resumed)
    took_seconds = loop.time() - killed
    events = await watcher.ended()
    assert await moving.ended() == events
    assert "message_discarded" in kinds(events)
    assert one(events, "finished").output.startswith("one two three")
    print(f"taken over after {took_seconds:.1f} s")
