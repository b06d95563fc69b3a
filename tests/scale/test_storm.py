"""Random kills and stops of replicas, and what all watchers saw."""

import asyncio
import os
import random
import signal
from collections.abc import Sequence

import pytest
from tests.running import Event, command, one, turn
from tests.scale.redis_server import needs_redis
from tests.scale.replicas import IS_WHOLE, Deployment, Watcher

from runner_service.v1 import execution_event_pb2 as event_pb2

SEED = int(os.environ.get("SCALE_SEED", "5"))
STOP_SHARE, STOPPED_SECONDS = 0.25, 5.0
MAX_AT_ONCE = 10
MOST = (50, 60) if IS_WHOLE else (10, 12)

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
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("faults", "executions"), [(2, 3), pytest.param(*MOST, marks=pytest.mark.long)], ids=["short", "long"]
)
async def test_5_random_kills_and_stops_lose_double_and_contradict_nothing(
    deployment: Deployment, faults: int, executions: int
) -> None:
    await deployment.start(TURNS, count=3)
    async with deployment.behind_proxy(spare=faults), asyncio.TaskGroup() as tasks:
        storm = tasks.create_task(_storm(deployment, faults))
        room = asyncio.Semaphore(MAX_AT_ONCE)
        watched = [tasks.create_task(_watched(deployment, f"e{number}", room)) for number in range(executions)]
    await storm
    for each in watched:
        _check(*each.result())


async def _storm(deployment: Deployment, faults: int) -> None:
    """Kills and stops replicas; each that was killed is replaced, each that was stopped goes on."""
    chance = random.Random(SEED)  # the same storm each time, as far as clocks allow
    stopped: set[int] = set()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(faults):
            await asyncio.sleep(chance.uniform(0.5, 3))
            living = [at for at, each in enumerate(deployment.replicas) if each.process.returncode is None]
            victim = chance.choice([at for at in living if at not in stopped])
            if chance.random() < STOP_SHARE and not stopped:
                tasks.create_task(_stop(deployment, victim, stopped))
            else:
                await deployment.kill(victim)
                await deployment.start(TURNS)


async def _stop(deployment: Deployment, victim: int, stopped: set[int]) -> None:
    stopped.add(victim)
    deployment.signal(victim, signal.SIGSTOP)
    await asyncio.sleep(STOPPED_SECONDS)
    deployment.signal(victim, signal.SIGCONT)
    stopped.discard(victim)


async def _watched(deployment: Deployment, name: str, room: asyncio.Semaphore) -> Sequence[Sequence[Event]]:
    """Runs an execution, and returns what each of its watchers saw."""
    async with room:
        await deployment.begin_anywhere(name)
        watchers = [deployment.watch_anywhere(name) for _ in range(2)]
        if deployment.proxy:
            watchers.append(Watcher([deployment.proxy], name))
        return [await each.ended(300) for each in watchers]


def _check(*seen: Sequence[Event]) -> None:
    events = seen[0]
    assert all(each == events for each in seen), "two contents under one number"
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
    owners = [each.started.owner for each in events if each.HasField("started")]
    assert owners == sorted(set(owners)), "each began after the one before had been fenced"
    ended = [each.tool_call_finished.tool_call_id for each in events if each.HasField("tool_call_finished")]
    assert len(ended) == len(set(ended)) == 2
