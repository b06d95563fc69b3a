"""Secrets of an execution whose owner dies: sealed in Redis with SECRETS_KEY, or in memory only."""

import base64
from pathlib import Path

import pytest
from tests.running import command, one, stdout_of, turn
from tests.scale.redis_server import needs_redis
from tests.scale.replicas import DETACHED, Deployment, kind, resumed
from tests.stigmer.conftest import daemon
from tests.stigmer.fake_daemon import KEY as DAEMON_KEY
from tests.stigmer.fake_daemon import FakeDaemon

from runner_service.executions.secret_box import SecretBox
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

__all__ = ["daemon"]

KEY = base64.b64encode(bytes(range(32))).decode()
SECRET = "hunter2-of-the-caller"
ENVIRONMENT = {"TOKEN": runner_pb2.EnvironmentValue(value=SECRET, is_secret=True)}
TURNS = [
    turn("", command("echo begun; sleep 3")),
    turn("", command("echo ${#TOKEN} characters")),
    turn("The end."),
]


def everything_in(deployment: Deployment, directory: Path) -> bytes:
    with deployment.redis.client as client:
        dumped = b"".join(client.dump(key) or b"" for key in client.scan_iter(count=1000))
    return dumped + b"".join(path.read_bytes() for path in directory.rglob("*.aof*") if path.is_file())


@needs_redis
@pytest.mark.long
@pytest.mark.timeout(120)
async def test_14_with_secrets_key_another_replica_goes_on(deployment: Deployment, tmp_path: Path) -> None:
    await deployment.start(TURNS, count=2, SECRETS_KEY=KEY)
    await deployment.begin(0, "e", until="tool_output", environment=ENVIRONMENT)
    watcher = deployment.watch(1, execution_id="e")
    await watcher.until(kind("tool_output"))
    await deployment.kill(0)
    await watcher.until(resumed)
    assert SECRET.encode() not in everything_in(deployment, tmp_path)
    events = await watcher.ended()
    assert stdout_of(events) == b"begun\n%d characters\n" % len(SECRET)
    assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
    with deployment.redis.client as client:
        assert not client.hexists("rs1:{e}:x", "sealed"), "deleted with the end"
    assert SECRET.encode() not in everything_in(deployment, tmp_path)


@needs_redis
@pytest.mark.long
@pytest.mark.timeout(120)
async def test_14_without_a_key_it_waits_for_a_caller_that_sends_them_again(
    deployment: Deployment, tmp_path: Path
) -> None:
    await deployment.start(TURNS, count=2)
    await deployment.begin(0, "e", until="tool_output", environment=ENVIRONMENT)
    watcher = deployment.watch(1, execution_id="e")
    await deployment.kill(0)
    client = deployment.replicas[1].client
    while await client.state("e") != event_pb2.STATE_INTERRUPTED:
        pass
    await deployment.begin(1, "e", until="tool_call_finished", environment=ENVIRONMENT)
    events = await watcher.ended()
    assert stdout_of(events) == b"begun\n%d characters\n" % len(SECRET)
    assert SECRET.encode() not in everything_in(deployment, tmp_path)


@needs_redis
@pytest.mark.long
@pytest.mark.timeout(120)
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
    events = await watcher.ended()
    assert stdout_of(events) == b"begun\n%d characters\n" % len(SECRET)
    assert SECRET.encode() not in everything_in(deployment, tmp_path)


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
