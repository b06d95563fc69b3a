"""Redis fails over to a standby that lacks the newest events, and the replica that has published them is gone too."""

import asyncio
import time
from pathlib import Path

import grpc
import pytest
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # it has types, but no marker
from tests.api.test_error_guard import details_of
from tests.running import command, one, stdout_of, text_of, turn
from tests.scale.redis_server import RedisServer, needs_redis, standby_of
from tests.scale.replicas import BEGUN_AND_WAITS, DETACHED, Deployment, Event, Watcher, kind, resumed

from runner_service.storage.event_log import NewExecution, NewState
from runner_service.storage.owner_history import OwnerHistory, Start
from runner_service.storage.redis.address import RedisAddress
from runner_service.storage.redis.backend import redis_storage
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

SLOW = turn(" ".join(str(number) for number in range(60)), delay=0.1)


async def follow(deployment: Deployment, seen: list[Event], **request: int) -> grpc.aio.AioRpcError:
    """Watches at the replica that survives, and returns why it ends."""
    asked = runner_pb2.WatchExecutionRequest(execution_id="e", **request)
    try:
        async for response in deployment.replicas[1].stub.WatchExecution(asked):
            seen += response.events
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError("the stream ended as if nothing had been lost")


async def more_seen_than_kept(deployment: Deployment, seen: list[Event], standby: RedisServer) -> None:
    """Lets an execution go on, and waits for events that a standby does not have."""
    deployment.let_go()
    with standby.client as client:
        ((newest, _),) = client.xrevrange("rs1:{e}:e", count=1)
    async with asyncio.timeout(60):
        while not seen or seen[-1].sequence < int(newest.partition(b"-")[2]) + 5:
            await asyncio.sleep(0.01)


async def end_seen(deployment: Deployment, watcher: Watcher) -> None:
    """Lets an execution end, and waits until its owner has nothing more to write."""
    deployment.let_go()
    await watcher.until(kind("finished"))
    await deployment.released("e")


def lost_above(error: grpc.aio.AioRpcError) -> int:
    """Returns the sequence after which a watcher has to go on."""
    assert error.code() == grpc.StatusCode.DATA_LOSS
    info = details_of(error, error_details_pb2.ErrorInfo)
    assert info.reason == "LOG_WENT_BACK"
    return int(info.metadata["after_sequence"])


@needs_redis
@pytest.mark.long
async def test_8_watchers_are_told_what_a_failover_has_lost_together_with_the_owner(
    deployment: Deployment, tmp_path: Path
) -> None:
    async with standby_of(deployment.redis, tmp_path / "standby") as standby:
        await deployment.start([turn("", command(BEGUN_AND_WAITS)), SLOW], count=2)
        await deployment.begin(0, "e", until="tool_output")
        seen: list[Event] = []
        watching = asyncio.create_task(follow(deployment, seen))
        lost = more_seen_than_kept(deployment, seen, standby)
        await deployment.redis.fail_over_to(standby, lost, lambda: deployment.kill(0))
        error = await watching
    kept = lost_above(error)
    assert 0 < kept < seen[-1].sequence

    events = await deployment.watch(1, execution_id="e").ended()
    assert events[:kept] == seen[:kept]
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
    assert SLOW["text"] in text_of(events)
    owners = [each.started.owner for each in events if each.HasField("started")]
    assert owners == sorted(set(owners))

    last = seen[-1].sequence
    error = await follow(deployment, [], after_sequence=last, after_owner=owners[0])
    assert lost_above(error) == kept
    again = runner_pb2.ExecuteAgentRequest(
        execution_id="e", disconnect_policy=DETACHED, after_sequence=last, after_owner=owners[0]
    )
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await deployment.replicas[1].stub.ExecuteAgent(again).read()
    assert refused.value.code() == grpc.StatusCode.DATA_LOSS


def test_a_history_tells_which_positions_a_later_owner_has_cut_off() -> None:
    history = OwnerHistory([Start(10, 0), Start(20, 30), Start(40, 25)])
    assert history.kept(10, 24) == 24
    assert history.kept(10, 31) == 25
    assert history.kept(20, 40) == 25
    assert history.kept(30, 40) == 25, "an owner whose claim was lost as well"
    assert history.kept(40, 40) == 40
    assert OwnerHistory().kept(10, 5) == 5


@needs_redis
@pytest.mark.long
async def test_7_an_execution_whose_end_a_failover_has_lost_ends_again(deployment: Deployment, tmp_path: Path) -> None:
    async with standby_of(deployment.redis, tmp_path / "standby") as standby:
        await deployment.start([turn("", command(BEGUN_AND_WAITS)), turn("The end.")], count=2)
        await deployment.begin(0, "e", until="tool_output", session_id="s")  # whose sandbox outlives the execution
        watcher = deployment.watch(1, execution_id="e")
        await watcher.until(kind("tool_output"))
        await deployment.redis.fail_over_to(standby, end_seen(deployment, watcher))
    assert (await watcher.ended())[-1].HasField("finished"), "it had ended, as whoever watched has seen"
    events = await deployment.watch(1, execution_id="e").ended()
    assert len([each for each in events if each.HasField("started")]) == 2
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED


@needs_redis
async def test_an_owner_keeps_an_execution_whose_end_is_lost_before_it_gives_it_up(redis: RedisServer) -> None:
    async with redis_storage(RedisAddress("127.0.0.1", redis.port)) as storage:
        claim = await storage.ownership.claim("e")
        assert claim
        tokens = {"e": claim.token}
        execution = runner_pb2.Execution(execution_id="e", state=event_pb2.STATE_RUNNING)
        await storage.log.append([NewExecution(execution, b"f")], tokens)
        await storage.ownership.release("e", has_ended=True)
        assert list(await storage.replicas.owned_by()) == ["e"]
        with redis.client as client:
            assert client.hget("rs1:{e}:x", "owner") == storage.ownership.replica.encode()
        ended = runner_pb2.Execution(execution_id="e", state=event_pb2.STATE_SUCCEEDED)
        await storage.log.append([NewState(ended)], tokens)
        await storage.ownership.release("e", has_ended=True)
        assert not await storage.replicas.owned_by()
        with redis.client as client:
            assert not client.hexists("rs1:{e}:x", "owner")


@needs_redis
@pytest.mark.long
async def test_4_an_owner_that_only_the_sandbox_refuses_claims_with_a_higher_token(
    deployment: Deployment,
) -> None:
    """A failover has lost the claim of a later owner, which the sandbox has seen."""
    waits_again = "rm go; echo next; until [ -e go ]; do sleep 0.05; done; echo over"
    turns = [turn("", command(BEGUN_AND_WAITS)), turn("", command(waits_again)), turn("The end.")]
    await deployment.start(turns)
    await deployment.begin(0, "e", until="tool_output")
    await deployment.kill(0)
    record, stream, later = "rs1:{e}:x", "rs1:{e}:e", time.time_ns() // 1000 + 3600 * 10**6
    with deployment.redis.client as client:
        before = client.hmget(record, "token", "owners")
        client.hset(record, "floor", later)
        await deployment.start(turns)
        watcher = deployment.watch(1, execution_id="e")
        await watcher.until(resumed)
        deployment.let_go()
        await watcher.until(lambda event: event.tool_output.stdout.startswith(b"next"))
        await deployment.kill(1)
        await watcher.close()
        client.hdel(record, "floor")
        client.hset(record, mapping={"token": before[0], "owners": before[1]})
        entries = client.xrange(stream)
        client.delete(stream)
        for name, fields in entries:
            token, sequence = map(int, name.split(b"-"))
            if token < later or fields[b"n"] != b"0":
                client.xadd(stream, fields, id=f"{min(token, int(before[0]))}-{sequence}")
        for key in client.scan_iter("rs1:{t:*}:t"):
            client.set(key, before[0])
    deployment.let_go()
    await deployment.start(turns)
    events = await deployment.watch(2, execution_id="e").ended(90)
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
    assert max(each.started.owner for each in events) > later
    assert stdout_of(events) == b"begun\nnext\nover\n"
