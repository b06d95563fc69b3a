"""What the page of one replica says of all of them."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.running import command, turn
from tests.scale.redis_server import needs_redis
from tests.scale.replicas import Deployment
from tests.web.test_security import post, session

pytestmark = [needs_redis, pytest.mark.long]


async def test_each_replica_says_what_it_owns_until_its_lease_is_over(deployment: Deployment, tmp_path: Path) -> None:
    turns = [turn("", command("sleep 600"))]
    await deployment.start(turns, count=2, WEB_ADDRESS="127.0.0.1:0")
    address = json.loads((tmp_path / "state-1" / "service.json").read_text())["web_address"]
    await deployment.begin(0, "a", until="tool_call_started")

    async with session() as http:

        async def replicas(wanted: Callable[[list[Any]], bool]) -> list[Any]:
            async with asyncio.timeout(60):
                while True:
                    status, body = await post(http, address, "/replicas")
                    assert status == 200, body
                    found: list[Any] = json.loads(body)["replicas"]
                    if wanted(found):
                        return found
                    await asyncio.sleep(0.1)

        def own_it(found: list[Any]) -> list[bool]:
            return [[each["execution_id"] for each in one["executions"]] == ["a"] for one in found]

        def runs_at_the_other(found: list[Any]) -> bool:
            return own_it(found) == [False, True] and found[1]["executions"][0]["state"] == "STATE_RUNNING"

        own, other = await replicas(runs_at_the_other)
        assert own["address"] == deployment.replicas[1].address
        assert other["address"] == deployment.replicas[0].address
        assert (other["running"], other["queued"], other["stage"]) == (1, 0, "serving")
        assert other["executions"][0] == {"tenant": "default", "execution_id": "a", "state": "STATE_RUNNING"}

        await deployment.kill(0)
        (left,) = await replicas(lambda found: own_it(found) == [True])
        assert left["name"] == own["name"]
