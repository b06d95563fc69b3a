"""A revert whose replica dies, and one beside the executions of other replicas."""

import asyncio
from pathlib import Path

import grpc
import pytest
from tests.changes.test_reverting import listed, revert
from tests.running import command, one, stdout_of, turn
from tests.scale.redis_server import needs_redis
from tests.scale.replicas import Deployment, kind

from runner_service.v1 import agent_runner_pb2 as runner_pb2

pytestmark = [needs_redis, pytest.mark.long]

FILES = [f"f{number:03}" for number in range(250)]
"""More than are put back by one request."""
TURNS = [turn("", command('eval "$RUN"')), turn("You: {{message}}")]


def running(text: str) -> dict[str, runner_pb2.EnvironmentValue]:
    """The environment of an execution that runs a command."""
    return {"RUN": runner_pb2.EnvironmentValue(value=text)}


class RevertHalfDone:
    """Holds the requests to sandboxes once a revert has put some files back, and not all, until they are let go."""

    def __init__(self, deployment: Deployment, work: Path) -> None:
        self._work = work
        self._is_over = False
        self.reached = asyncio.Event()
        self.let_go = asyncio.Event()
        deployment.cloud.faults.before_execute = self._before_execute

    def put_back(self) -> list[str]:
        """The files that are as before."""
        return [name for name in FILES if not (self._work / name).exists()]

    async def _before_execute(self) -> None:
        if self._is_over or not 0 < len(self.put_back()) < len(FILES):
            return
        self._is_over = True
        self.reached.set()
        await self.let_go.wait()


async def until_put_back(point: RevertHalfDone) -> None:
    """Waits until all files are as before."""
    async with asyncio.timeout(60):
        while len(point.put_back()) < len(FILES):
            await asyncio.sleep(0.05)


async def changed_files(deployment: Deployment) -> Path:
    """Lets an execution of a session create FILES, and returns the directory of its sandbox."""
    await deployment.replicas[0].client.execute(
        execution_id="e", session_id="s", environment=running("touch f{000..249}")
    )
    (work,) = (each.parent for each in deployment.files("f000"))
    assert all((work / name).exists() for name in FILES)
    return work


async def test_a_revert_whose_replica_is_killed_is_completed_by_another(deployment: Deployment) -> None:
    await deployment.start(TURNS, count=2)
    point = RevertHalfDone(deployment, await changed_files(deployment))
    reverting = asyncio.create_task(revert(deployment.replicas[0].client, "e"))
    await point.reached.wait()
    await deployment.kill(0)
    await asyncio.wait([reverting])
    assert isinstance(reverting.exception(), grpc.aio.AioRpcError)
    point.let_go.set()
    await until_put_back(point)
    client = deployment.replicas[1].client
    async with asyncio.timeout(60):
        while await listed(client, "e"):
            await asyncio.sleep(0.05)
    with deployment.redis.client as redis:
        assert not redis.hexists("rs1:{e}:v", "revert")
    await revert(client, "e", undo_revert=True)
    assert point.put_back() == []


async def test_a_replica_that_starts_completes_the_revert_of_the_only_one(deployment: Deployment) -> None:
    await deployment.start(TURNS)
    point = RevertHalfDone(deployment, await changed_files(deployment))
    reverting = asyncio.create_task(revert(deployment.replicas[0].client, "e"))
    await point.reached.wait()
    await deployment.kill(0)
    await asyncio.wait([reverting])
    reverting.exception()
    point.let_go.set()
    await deployment.start(TURNS)
    await until_put_back(point)


async def test_an_execution_that_begins_at_another_replica_waits_for_the_revert(deployment: Deployment) -> None:
    await deployment.start(TURNS, count=2)
    point = RevertHalfDone(deployment, await changed_files(deployment))
    reverting = asyncio.create_task(revert(deployment.replicas[0].client, "e"))
    await point.reached.wait()
    await deployment.begin(1, "next", session_id="s", environment=running("ls"))
    watcher = deployment.watch(1, execution_id="next")
    await watcher.until(kind("started"))
    assert point.put_back() != FILES
    point.let_go.set()
    assert len((await reverting).reverted) == len(FILES)
    events = await watcher.ended()
    assert b"f" not in stdout_of(events)
    assert one(events, "finished").output.endswith("go")


async def test_a_revert_is_refused_while_an_execution_of_another_replica_has_the_files(deployment: Deployment) -> None:
    await deployment.start(TURNS, count=2)
    await changed_files(deployment)
    await deployment.begin(1, "next", until="tool_output", session_id="s", environment=running("echo begun; sleep 600"))
    with pytest.raises(grpc.aio.AioRpcError, match="an execution of session s is running") as refused:
        await revert(deployment.replicas[0].client, "e")
    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    request = runner_pb2.CancelExecutionRequest(execution_id="next")
    await deployment.replicas[0].stub.CancelExecution(request)
    await deployment.watch(0, execution_id="next").ended()
    assert len((await revert(deployment.replicas[0].client, "e")).reverted) == len(FILES)
