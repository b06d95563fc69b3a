"""The owner of an execution dies or is stopped: another replica goes on, and nothing is done twice.

The numbers in the names of tests are those of the acceptance tests in docs/scale-out.md.
"""

import asyncio
import signal
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from tests.running import command, kinds, one, stdout_of, text_of, turn
from tests.scale.redis_server import needs_redis
from tests.scale.replicas import Deployment, kind, resumed
from tests.scale.test_redis_faults import ready

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

pytestmark = needs_redis

_WRITE = ("write_file", {"file_path": "zombie", "content": "1"})


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
    text = "one two three four five six seven eight nine ten eleven twelve"
    await deployment.start([turn(text, delay=1.0)])  # also on a busy machine it is killed before the end
    await deployment.start(STIGMER_LLM_SCRIPT=deployment.other_script([turn(text, delay=0.2)]))
    async with deployment.behind_proxy():
        await deployment.begin(0, "e", until="text_delta")
        watchers = deployment.watch_everywhere("e")
        await watchers.until(kind("text_delta"))
        loop = asyncio.get_running_loop()
        await deployment.kill(0)
        killed = loop.time()
        await watchers.each[1].until(resumed)
        took_seconds = loop.time() - killed
        events = await watchers.ended()
    assert "message_discarded" in kinds(events)
    assert one(events, "finished").output.startswith("one two three")
    print(f"taken over after {took_seconds:.1f} s")


@pytest.mark.parametrize("seconds", [6, pytest.param(60, marks=pytest.mark.long)])
async def test_2_kill_of_the_owner_in_mid_command(deployment: Deployment, seconds: int) -> None:
    lines = seconds * 5
    script = f"echo begun >> begun; for i in $(seq {lines}); do echo line $i; sleep 0.2; done; cat begun; exit 3"
    await deployment.start([turn("", command(script)), turn("The end.")], count=2)
    async with deployment.behind_proxy():
        await deployment.begin(0, "e", until="tool_output")
        watchers = deployment.watch_everywhere("e")
        await watchers.until(kind("tool_output"))
        await deployment.kill(0)
        events = await watchers.ended(60 + 2 * seconds)
    assert stdout_of(events) == b"".join(b"line %d\n" % number for number in range(1, lines + 1)) + b"begun\n"
    finished = one(events, "tool_call_finished")
    assert (finished.exit_code, finished.outcome) == (3, event_pb2.TOOL_OUTCOME_FAILED)
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED


class CallBegun:
    """Stops the requests to sandboxes once the journal has the start of a call, until they are let go."""

    def __init__(self, deployment: Deployment, execution_id: str) -> None:
        self._redis = deployment.redis
        self._key = f"rs1:{{{execution_id}}}:j"
        self._is_over = False
        self.reached = asyncio.Event()
        self.let_go = asyncio.Event()
        deployment.cloud.faults.before_execute = self._before_execute

    async def _before_execute(self) -> None:
        if self._is_over or await asyncio.to_thread(self._count_entries) < 2:  # one is the id of the run
            return
        self._is_over = True
        self.reached.set()
        await self.let_go.wait()

    def _count_entries(self) -> int:
        with self._redis.client as client:
            return int(client.hlen(self._key))


async def test_3_kill_of_the_owner_between_journal_and_command(deployment: Deployment) -> None:
    turns = [turn("", command("echo ran >> ran")), turn("", command("cat ran || echo none")), turn("The end.")]
    await deployment.start(turns, count=2)
    point = CallBegun(deployment, "e")
    async with deployment.behind_proxy():
        await deployment.begin(0, "e")
        watchers = deployment.watch_everywhere("e")
        await point.reached.wait()
        await deployment.kill(0)
        await watchers.until(resumed)
        point.let_go.set()  # the request was under way
        events = await watchers.ended()
    ended = [each.tool_call_finished for each in events if each.HasField("tool_call_finished")]
    assert len(ended) == len({each.tool_call_id for each in ended}) == 2
    assert stdout_of(events) in {b"ran\n", b"none\n"}


async def test_3_kill_of_the_owner_between_command_and_journal(deployment: Deployment) -> None:
    turns = [turn("", command("sleep 1; echo ran >> ran")), turn("", command("cat ran")), turn("The end.")]
    await deployment.start(turns, count=2)
    await deployment.begin(0, "e", until="tool_call_started")
    watchers = deployment.watch_everywhere("e")
    await watchers.until(kind("tool_call_started"))
    async with asyncio.timeout(30):
        while not deployment.files("ran"):
            await asyncio.sleep(0.001)
    await deployment.kill(0)
    events = await watchers.ended()
    ended = [each.tool_call_finished for each in events if each.HasField("tool_call_finished")]
    assert len(ended) == len({each.tool_call_id for each in ended}) == 2
    assert stdout_of(events) == b"ran\n"


async def test_3_kill_of_the_owner_after_the_end_of_a_call_is_in_the_journal(deployment: Deployment) -> None:
    turns = [turn("", command("echo ran >> ran")), turn("", command("cat ran"), silence=2.0), turn("The end.")]
    await deployment.start(turns, count=2)
    await deployment.begin(0, "e", until="tool_call_finished")
    watchers = deployment.watch_everywhere("e")
    await deployment.kill(0)
    events = await watchers.ended()
    ended = [each.tool_call_finished for each in events if each.HasField("tool_call_finished")]
    assert len(ended) == len({each.tool_call_id for each in ended}) == 2
    assert stdout_of(events) == b"ran\n"


@pytest.mark.parametrize(
    ("call", "stopped_seconds"),
    [
        pytest.param(command("touch zombie"), 0, id="command"),
        pytest.param(command("touch zombie"), 10, id="command-long", marks=pytest.mark.long),
        pytest.param(_WRITE, 10, id="file-long", marks=pytest.mark.long),
    ],
)
async def test_4_an_owner_that_was_stopped_does_nothing_when_it_goes_on(
    deployment: Deployment, call: tuple[str, dict[str, Any]], stopped_seconds: float
) -> None:
    wait_and_look = command(f"sleep ${{PAUSE:-{stopped_seconds + 4}}}; ls")
    await deployment.start([turn("", call), turn("", wait_and_look), turn("The end.")], count=2)
    point = CallBegun(deployment, "e")
    async with deployment.behind_proxy():
        await deployment.begin(0, "e")
        watchers = deployment.watch_everywhere("e")
        await point.reached.wait()
        deployment.signal(0, signal.SIGSTOP)
        await watchers.each[1].until(resumed)
        await watchers.each[1].until(lambda event: event.tool_call_started.arguments == _arguments(wait_and_look))
        await asyncio.sleep(stopped_seconds)
        point.let_go.set()
        deployment.signal(0, signal.SIGCONT)
        await ready(deployment.replicas[0].address, is_ready=True)
        events = await watchers.ended()
        assert b"zombie" not in stdout_of(events)
        assert len([each for each in events if each.HasField("started")]) == 2
        assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED

        pause = {"PAUSE": runner_pb2.EnvironmentValue(value="0")}
        await deployment.begin(0, "after", environment=pause)  # the one that was stopped works on for others
        events = await deployment.watch_everywhere("after").ended()
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED


def _arguments(call: tuple[str, dict[str, Any]]) -> Struct:
    arguments = Struct()
    arguments.update(call[1])
    return arguments
