"""Random kills and stops of replicas, and what all watchers saw. `CHAOS_FAULTS=50` repeats it for longer."""

import asyncio
import os
import random
import signal

import pytest
from tests.running import command, one, turn
from tests.scale.redis_server import needs_redis
from tests.scale.replicas import Deployment

from runner_service.v1 import execution_event_pb2 as event_pb2

FAULTS = int(os.environ.get("CHAOS_FAULTS", "4"))
TURNS = [
    turn(
        "one two three four five six seven eight",
        command("for i in 1 2 3 4 5 6; do echo $i; sleep 0.5; done"),
        delay=0.3,
    ),
    turn("nine ten eleven twelve", command("echo again"), delay=0.3),
    turn("The end.", delay=0.3),
]


@needs_redis
@pytest.mark.long
@pytest.mark.timeout(300)
async def test_5_random_kills_and_stops_lose_double_and_contradict_nothing(deployment: Deployment) -> None:
    chance = random.Random(5)  # the same storm each time, as far as clocks allow
    await deployment.start(TURNS, count=3)
    names = [f"e{number}" for number in range(6)]
    await asyncio.gather(*(deployment.begin(at % 3, name) for at, name in enumerate(names)))
    watchers = {name: [deployment.watch_anywhere(name) for _ in range(2)] for name in names}
    for _ in range(FAULTS):
        await asyncio.sleep(chance.uniform(0, 3))
        living = [at for at, each in enumerate(deployment.replicas) if each.process.returncode is None]
        victim = chance.choice(living)
        if chance.random() < 0.3:
            deployment.signal(victim, signal.SIGSTOP)
            await asyncio.sleep(5)
            deployment.signal(victim, signal.SIGCONT)
        else:
            await deployment.kill(victim)
            await deployment.start(TURNS)
    for two in watchers.values():
        one_saw, other_saw = [await each.ended(150) for each in two]
        assert one_saw == other_saw
        assert one(one_saw, "finished").state == event_pb2.STATE_SUCCEEDED
        owners = [each.started.owner for each in one_saw if each.HasField("started")]
        assert owners == sorted(set(owners)), "each began after the one before had been fenced"
        ended = [each.tool_call_finished.tool_call_id for each in one_saw if each.HasField("tool_call_finished")]
        assert len(ended) == len(set(ended)) == 2
