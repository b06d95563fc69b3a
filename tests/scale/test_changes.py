"""What an execution changed is listed, shown and taken back by any replica."""

import pytest
from tests.changes.test_reverting import listed, revert
from tests.changes.test_tracking import changes
from tests.running import command, turn
from tests.scale.redis_server import needs_redis
from tests.scale.replicas import Deployment

from runner_service.v1 import agent_runner_pb2 as runner_pb2

pytestmark = [needs_redis, pytest.mark.long]


async def test_another_replica_lists_shows_and_takes_back(deployment: Deployment) -> None:
    await deployment.start([turn("", command("echo $RANDOM > a; echo 1 > {{message}}")), turn("ok")], count=2)
    [sandbox_of_first, other] = deployment.replicas
    events = await sandbox_of_first.client.execute("b", execution_id="e", session_id="s")
    assert [path for _, _, path in changes(events)] == ["a", "b"]
    assert [each.path for each in await listed(other.client, "e")] == ["a", "b"]
    assert "+1\n" in (await other.client.stub.GetDiff(runner_pb2.GetDiffRequest(execution_id="e"))).diff
    await deployment.released("e")
    assert len((await revert(other.client, "e")).reverted) == 2
    assert await listed(sandbox_of_first.client, "e") == []
    await revert(sandbox_of_first.client, "e", undo_revert=True)
    assert [each.path for each in await listed(other.client, "e")] == ["a", "b"]
