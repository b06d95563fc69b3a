"""The executions of a session run one at a time, over all replicas."""

import itertools

import pytest
from tests.running import Event, command, one, turn
from tests.scale.redis_server import needs_redis
from tests.scale.replicas import Deployment, kind

from runner_service.v1 import execution_event_pb2 as event_pb2

pytestmark = [needs_redis, pytest.mark.long]

TURNS = [turn("", command("mkdir busy && sleep 0.2 && rmdir busy && echo alone")), turn("The end.")]


def started_at(events: list[Event]) -> int:
    return next(each for each in events if each.HasField("started")).create_time.ToNanoseconds()


def finished_at(events: list[Event]) -> int:
    return events[-1].create_time.ToNanoseconds()


@pytest.mark.timeout(180)
async def test_11_executions_of_a_session_take_turns_over_replicas_that_die(deployment: Deployment) -> None:
    await deployment.start(TURNS, count=3)
    names = [f"e{number}" for number in range(9)]
    sessions = {name: f"s{number % 3}" for number, name in enumerate(names)}
    for number, name in enumerate(names):
        request = deployment.request(name, session_id=sessions[name])
        call = deployment.replicas[number % 3].stub.ExecuteAgent(request)
        async for response in call:
            if response.events:
                break
        call.cancel()
    watchers = {name: deployment.watch(1, 2, execution_id=name) for name in names}
    await watchers[names[0]].until(kind("finished"))
    await deployment.kill(0)
    events = {name: await watcher.ended(150) for name, watcher in watchers.items()}
    for session in set(sessions.values()):
        ordered = [events[name] for name in names if sessions[name] == session]
        assert all(one(each, "finished").state == event_pb2.STATE_SUCCEEDED for each in ordered)
        assert [finished_at(each) for each in ordered] == sorted(finished_at(each) for each in ordered)
        for earlier, later in itertools.pairwise(ordered):
            assert finished_at(earlier) <= started_at(later)
