"""Secrets of an execution whose owner dies: sealed in Redis with SECRETS_KEY, or in memory only."""

import asyncio
import base64
import contextlib
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.running import Client, command, one, stdout_of, turn
from tests.scale.redis_server import needs_redis
from tests.scale.replicas import BEGUN_AND_WAITS, DETACHED, Deployment, kind, resumed
from tests.stigmer.conftest import daemon
from tests.stigmer.fake_daemon import KEY as DAEMON_KEY
from tests.stigmer.fake_daemon import FakeDaemon

from runner_service.executions.secret_box import SecretBox
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import approval_policy_pb2 as policy_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

__all__ = ["daemon"]

KEY = base64.b64encode(bytes(range(32))).decode()
NEXT_KEY = base64.b64encode(bytes(range(1, 33))).decode()
SECRET = "hunter2-of-the-caller"
ENVIRONMENT = {"TOKEN": runner_pb2.EnvironmentValue(value=SECRET, is_secret=True)}
TURNS = [
    turn("", command(BEGUN_AND_WAITS)),
    turn("", command("echo ${#TOKEN} characters")),
    turn("The end."),
]


async def everything_in(deployment: Deployment, directory: Path) -> bytes:
    """All that Redis has, as it is and not as it packs it, and its files."""
    with deployment.redis.client as client:
        client.bgrewriteaof()
        async with asyncio.timeout(60):  # until then it deletes files, and refuses to write them anew
            while (found := client.info("persistence"))["aof_rewrite_in_progress"] or found["aof_rewrite_scheduled"]:
                await asyncio.sleep(0.02)
        values = [value for key in client.scan_iter(count=1000) for value in (key, *contents(client, key))]
    found = (directory / "redis").rglob("*.aof*")
    files = [path.read_bytes() for path in found if path.is_file()]
    assert files
    return b"".join([*values, *files])


def contents(client: Any, key: bytes) -> Iterator[bytes]:
    """All that is stored under a key."""
    match client.type(key):
        case b"string":
            yield client.get(key) or b""
        case b"hash":
            yield from chain(*client.hgetall(key).items())
        case b"stream":
            for _, fields in client.xrange(key):
                yield from chain(*fields.items())
        case b"list":
            yield from client.lrange(key, 0, -1)
        case b"set":
            yield from client.smembers(key)
        case b"zset":
            yield from client.zrange(key, 0, -1)
        case b"none":
            pass  # deleted, or the last of a set removed, since the scan
        case other:
            raise AssertionError(f"{key!r} is {other!r}")


async def require_no_secret(deployment: Deployment, directory: Path) -> None:
    """Fails if a secret is in Redis or in its files; what is none is found there by the same search."""
    everything = await everything_in(deployment, directory)
    assert b"echo begun" in everything
    for form in (SECRET.encode(), base64.b64encode(SECRET.encode())):
        assert form not in everything


@needs_redis
@pytest.mark.long
async def test_14_with_secrets_key_another_replica_goes_on(deployment: Deployment, tmp_path: Path) -> None:
    await deployment.start(TURNS, SECRETS_KEY=KEY)
    await deployment.start(TURNS, SECRETS_KEY=f"{NEXT_KEY},{KEY}")  # in the middle of a rotation
    await deployment.begin(0, "e", until="tool_output", environment=ENVIRONMENT)
    watcher = deployment.watch(1, execution_id="e")
    await watcher.until(kind("tool_output"))
    await require_no_secret(deployment, tmp_path)
    await deployment.kill(0)
    deployment.let_go()
    await watcher.until(resumed)
    await require_no_secret(deployment, tmp_path)
    events = await watcher.ended()
    assert stdout_of(events) == b"begun\n%d characters\n" % len(SECRET)
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
    with deployment.redis.client as client:
        assert not client.hexists("rs1:{e}:x", "sealed"), "deleted with the end"
    await require_no_secret(deployment, tmp_path)


@needs_redis
@pytest.mark.long
async def test_14_what_is_sealed_is_kept_while_an_execution_waits_for_an_approval(
    deployment: Deployment, tmp_path: Path
) -> None:
    policy = policy_pb2.ApprovalPolicy(mode=policy_pb2.APPROVAL_MODE_ASK_COMMANDS)
    turns = [turn("", command("echo begun; echo ${#TOKEN} characters")), turn("The end.")]
    await deployment.start(turns, count=2, SECRETS_KEY=KEY, APPROVAL_HOLD="0")
    await deployment.begin(0, "e", until="approval_requested", environment=ENVIRONMENT, approval_policy=policy)
    watcher = deployment.watch(1, execution_id="e")
    asked = (await watcher.until(kind("approval_requested"))).approval_requested
    client = deployment.replicas[1].client
    async with asyncio.timeout(60):
        while await client.state("e") != event_pb2.STATE_WAITING:
            await asyncio.sleep(0.05)
    await deployment.kill(0)
    await require_no_secret(deployment, tmp_path)
    decision = runner_pb2.SubmitApprovalRequest(
        execution_id="e",
        tool_call_id=asked.tool_call_id,
        generation=asked.generation,
        action=event_pb2.APPROVAL_ACTION_APPROVE,
    )
    async with asyncio.timeout(60):  # until the lease of the one that parked it is over
        while (await _submitted(client, decision)) is None:
            await asyncio.sleep(0.2)
    events = await watcher.ended()
    assert stdout_of(events) == b"begun\n%d characters\n" % len(SECRET)
    with deployment.redis.client as redis:
        assert not redis.hexists("rs1:{e}:x", "sealed"), "deleted with the end"


async def _submitted(client: Client, decision: runner_pb2.SubmitApprovalRequest) -> object:
    with contextlib.suppress(grpc.aio.AioRpcError):
        return await client.stub.SubmitApproval(decision)
    return None


@needs_redis
@pytest.mark.long
async def test_14_without_a_key_it_waits_for_a_caller_that_sends_them_again(
    deployment: Deployment, tmp_path: Path
) -> None:
    await deployment.start(TURNS, count=2)
    await deployment.begin(0, "e", until="tool_output", environment=ENVIRONMENT)
    watcher = deployment.watch(1, execution_id="e")
    await deployment.kill(0)
    deployment.let_go()
    client = deployment.replicas[1].client
    async with asyncio.timeout(60):
        while await client.state("e") != event_pb2.STATE_INTERRUPTED:
            await asyncio.sleep(0.05)
    await deployment.begin(1, "e", until="tool_call_finished", environment=ENVIRONMENT)
    events = await watcher.ended()
    assert stdout_of(events) == b"begun\n%d characters\n" % len(SECRET)
    await require_no_secret(deployment, tmp_path)


@needs_redis
@pytest.mark.long
async def test_14_the_secrets_of_an_execution_of_the_daemon_are_asked_for_again(
    deployment: Deployment, daemon: FakeDaemon, tmp_path: Path
) -> None:
    daemon.environment("vault", {"TOKEN": SECRET}, secret=True)
    daemon.execution("aex-1")
    daemon.instance("vault")
    variables = {"STIGMER_BACKEND_ENDPOINT": daemon.address, "STIGMER_API_KEY": DAEMON_KEY}
    await deployment.start(TURNS, 2, **variables)
    request = runner_pb2.ExecuteAgentRequest(execution_id="aex-1", disconnect_policy=DETACHED)
    call = deployment.replicas[0].stub.ExecuteAgent(request)
    async for response in call:
        if any(each.HasField("tool_output") for each in response.events):
            break
    watcher = deployment.watch(1, execution_id="aex-1")
    await deployment.kill(0)
    deployment.let_go()
    events = await watcher.ended()
    assert stdout_of(events) == b"begun\n%d characters\n" % len(SECRET)
    await require_no_secret(deployment, tmp_path)


def test_a_sealed_request_opens_with_both_keys_of_a_rotation_for_its_own_execution_only() -> None:
    old, new = bytes(32), bytes(range(32))
    request = runner_pb2.ExecuteAgentRequest(environment=ENVIRONMENT)
    sealed = SecretBox([old]).seal("e", request)
    assert SECRET.encode() not in sealed
    rotated = SecretBox([new, old])
    assert rotated.open("e", sealed) == request
    assert rotated.open("another", sealed) is None
    assert rotated.open("e", sealed[:-1] + bytes([sealed[-1] ^ 1])) is None
    assert SecretBox([new]).open("e", sealed) is None
    assert SecretBox([new]).open("e", rotated.seal("e", request)) == request
