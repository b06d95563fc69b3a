"""Tenants over replicas: quotas count what all of them have, and the same ids are different executions."""

import asyncio
import contextlib
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.callers.files import CallersYaml, acting_for, bearer
from tests.callers.test_quotas import details_of
from tests.probe import failure_of
from tests.running import command, one, stdout_of, turn
from tests.scale.redis_server import needs_redis
from tests.scale.replicas import BEGUN_AND_WAITS, Deployment

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

pytestmark = [needs_redis, pytest.mark.long]

WAITS = [turn("", command("sleep 300")), turn("done")]


class Caller:
    """Calls replicas with the token of one caller."""

    def __init__(self, deployment: Deployment, metadata: Any) -> None:
        self._deployment = deployment
        self._metadata = metadata

    async def start(self, replica: int, name: str, **fields: Any) -> None:
        """Starts an execution, and leaves it."""
        request = self._deployment.request(name, **fields)
        call = self._deployment.replicas[replica].stub.ExecuteAgent(request, metadata=self._metadata)
        await call.read()
        call.cancel()

    async def refused(self, replica: int, name: str) -> str:
        """Returns the quota that an execution would exceed."""
        error = await failure_of(self.start(replica, name))
        assert error.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        return str(details_of(error)[0].quota_metric)

    async def cancel(self, replica: int, name: str) -> None:
        """Cancels an execution."""
        request = runner_pb2.CancelExecutionRequest(execution_id=name)
        await self._deployment.replicas[replica].stub.CancelExecution(request, metadata=self._metadata)

    async def until(self, replica: int, name: str, state: str) -> None:
        """Waits for a state of an execution."""
        async with asyncio.timeout(60):
            while await self.state(replica, name) != state:
                await asyncio.sleep(0.05)

    async def state(self, replica: int, name: str) -> str:
        """Returns the state of an execution."""
        request = runner_pb2.GetExecutionRequest(execution_id=name)
        answer = await self._deployment.replicas[replica].stub.GetExecution(request, metadata=self._metadata)
        return event_pb2.State.Name(answer.execution.state).removeprefix("STATE_")

    async def watch(self, replica: int, name: str) -> Any:
        """Opens a stream, once what was open before is closed, and reads its first events."""
        request = runner_pb2.WatchExecutionRequest(execution_id=name)
        async with asyncio.timeout(30):
            while True:
                call = self._deployment.replicas[replica].stub.WatchExecution(request, metadata=self._metadata)
                with contextlib.suppress(grpc.aio.AioRpcError):
                    await call.read()
                    return call
                await asyncio.sleep(0.05)

    async def until_output(self, replica: int, name: str) -> None:
        """Waits until a command of an execution has written something."""
        request = runner_pb2.WatchExecutionRequest(execution_id=name)
        async for response in self._deployment.replicas[replica].stub.WatchExecution(request, metadata=self._metadata):
            if any(each.HasField("tool_output") for each in response.events):
                return

    async def events(self, replica: int, name: str) -> list[Any]:
        """Returns all events of an execution, once it has ended."""
        request = runner_pb2.WatchExecutionRequest(execution_id=name)
        found: list[Any] = []
        async for response in self._deployment.replicas[replica].stub.WatchExecution(request, metadata=self._metadata):
            found += response.events
        return found


async def test_quotas_count_what_all_replicas_have_and_what_a_dead_one_had_moves_with_it(
    deployment: Deployment, tmp_path: Path
) -> None:
    callers = CallersYaml(tmp_path / "callers.yaml")
    callers.content["tenants"] = {"acme": {"quotas": {"running": 1, "queued": 1}}}
    callers.content["tenants"]["hasty"] = {"quotas": {"starts_per_minute": 3, "open_calls": 2}}
    acme, globex, hasty = (Caller(deployment, bearer(callers.add(name, name))) for name in ("acme", "globex", "hasty"))
    await deployment.start(WAITS, count=2, CALLERS_FILE=str(callers.path))
    await acme.start(0, "a1")
    await acme.until(0, "a1", "RUNNING")
    await acme.start(1, "a2")
    assert await acme.refused(0, "a3") == await acme.refused(1, "a3") == "queued"
    await globex.start(1, "g1")
    await globex.until(1, "g1", "RUNNING")
    assert await acme.state(1, "a2") == "PENDING", "it stands aside, and holds up nobody else"

    await acme.cancel(1, "a1")
    await acme.until(1, "a2", "RUNNING")
    await acme.start(0, "a3")
    await deployment.kill(1)
    async with asyncio.timeout(60):
        while {await acme.state(0, name) for name in ("a2", "a3")} != {"RUNNING", "PENDING"} or (
            await globex.state(0, "g1") != "RUNNING"
        ):
            await asyncio.sleep(0.1)
    assert await acme.refused(0, "a4") == "queued"
    for name in ("a2", "a3"):
        await acme.cancel(0, name)
    await acme.start(0, "a5")
    await acme.until(0, "a5", "RUNNING")

    await deployment.start(count=1, CALLERS_FILE=str(callers.path))
    for number in range(3):
        await hasty.start((0, 2)[number % 2], f"h{number}")
        await until_closed(deployment, "hasty")
    assert await hasty.refused(0, "h3") == await hasty.refused(2, "h3") == "starts_per_minute"

    watching = [await hasty.watch(replica, "h0") for replica in (0, 2)]
    async with asyncio.timeout(30):
        while await _state_or_quota(hasty, 2, "h0") != "open_calls":
            await asyncio.sleep(0.05)
    watching[0].cancel()
    async with asyncio.timeout(30):
        while await _state_or_quota(hasty, 2, "h0") == "open_calls":
            await asyncio.sleep(0.05)
    watching[1].cancel()


async def until_closed(deployment: Deployment, tenant: str) -> None:
    """Waits until no replica counts an open call of a tenant with a quota: they learn late that a caller has left."""
    async with asyncio.timeout(30):
        with deployment.redis.client as client:
            while set(client.hvals(f"rs1:{{d:default}}:count:calls:{tenant}")) != {b"0"}:
                await asyncio.sleep(0.02)


async def _state_or_quota(caller: Caller, replica: int, name: str) -> str:
    try:
        return await caller.state(replica, name)
    except grpc.aio.AioRpcError as error:
        return str(details_of(error)[0].quota_metric)


async def test_the_same_ids_in_three_tenants_share_no_key_and_each_is_resumed_as_itself(
    deployment: Deployment,
) -> None:
    turns = [
        turn("", command(f"echo mine >> mine; {BEGUN_AND_WAITS}")),
        turn("", command("wc -l < mine")),
        turn("The end."),
    ]
    await deployment.start(turns, count=2)
    names = ("default", "acme", "globex")
    tenants = {name: Caller(deployment, acting_for(name)) for name in names}
    await asyncio.gather(*(
        caller.start(0, "same", session_id="chat", labels={"whose": name}) for name, caller in tenants.items()
    ))  # fmt: skip
    await asyncio.gather(*(caller.until_output(1, "same") for caller in tenants.values()))
    with deployment.redis.client as client:
        keys = [key.decode() for key in client.scan_iter(count=1000)]
    tags = ("{same}", "{acme~same}", "{globex~same}")
    assert all(any(tag in key for key in keys) for tag in tags)
    assert not [key for key in keys if "same" in key and not any(tag in key for tag in tags)]
    await deployment.kill(0)
    deployment.let_go()
    for name, caller in tenants.items():
        events = await caller.events(1, "same")
        assert [each.started.resumed for each in events if each.HasField("started")] == [False, True]
        assert {each.started.caller.tenant for each in events if each.HasField("started")} == {name}
        assert stdout_of(events).split()[-1] == b"1"
        assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED
    for tag in tags:
        await deployment.released(tag.strip("{}"))
    with deployment.redis.client as client:
        before = {key: client.dump(key) for key in client.scan_iter(count=1000) if b"{acme~same}" in key}
        deleting = runner_pb2.DeleteExecutionRequest(execution_id="same")
        await deployment.replicas[1].stub.DeleteExecution(deleting, metadata=acting_for("globex"))
        assert {key: client.dump(key) for key in before} == before
        assert not [key for key in client.scan_iter(count=1000) if b"{globex~same}" in key]
