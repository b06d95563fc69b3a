"""The executions of a session run one at a time, over all replicas."""

import asyncio
import itertools
import os
import random

import pytest
from tests.running import Event, command, one, turn
from tests.scale.redis_server import needs_redis
from tests.scale.replicas import IS_WHOLE, Deployment, Watcher, kind

from runner_service.v1 import execution_event_pb2 as event_pb2

pytestmark = [needs_redis, pytest.mark.long]

SEED = int(os.environ.get("SCALE_SEED", "11"))
EXECUTIONS, SESSIONS, REPLICAS, KILLS = (200, 20, 4, 3) if IS_WHOLE else (30, 5, 4, 2)
TURNS = [turn("", command("mkdir busy && sleep 0.1 && rmdir busy && echo alone")), turn("The end.")]


def started_at(events: list[Event]) -> int:
    return next(each for each in events if each.HasField("started")).create_time.ToNanoseconds()


def finished_at(events: list[Event]) -> int:
    return events[-1].create_time.ToNanoseconds()


@pytest.mark.timeout(900)
async def test_11_executions_of_a_session_take_turns_over_replicas_that_die(deployment: Deployment) -> None:
    chance = random.Random(SEED)
    await deployment.start(TURNS, count=REPLICAS)
    sessions = [[f"e{session}-{number}" for number in range(EXECUTIONS // SESSIONS)] for session in range(SESSIONS)]
    watchers: dict[str, Watcher] = {}

    async def start(session: int) -> None:
        for name in sessions[session]:
            await deployment.begin_anywhere(name, session_id=f"s{session}")
            watchers[name] = deployment.watch_anywhere(name)

    async with deployment.behind_proxy(spare=KILLS):
        await asyncio.gather(*map(start, range(SESSIONS)))
        for number in range(KILLS):
            await watchers[sessions[number][2 * number]].until(kind("finished"), 300)
            living = [at for at, each in enumerate(deployment.replicas) if each.process.returncode is None]
            await deployment.kill(chance.choice(living))
            await deployment.start(TURNS)
        last = watchers[sessions[0][-1]]
        await last.until(kind("started"), 300)
        assert await deployment.watch_everywhere(sessions[0][0]).ended() == await watchers[sessions[0][0]].ended()
        events = {name: await watcher.ended(600) for name, watcher in watchers.items()}
    for names in sessions:
        ordered = [events[name] for name in names]
        assert all(one(each, "finished").state == event_pb2.STATE_SUCCEEDED for each in ordered)
        for earlier, later in itertools.pairwise(ordered):
            assert finished_at(earlier) <= started_at(later)
