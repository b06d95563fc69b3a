"""The audit says who did what, and the operator alone reads it."""

import asyncio
from pathlib import Path
from typing import Any

import grpc
from tests.callers.files import CallersYaml, acting_for, bearer
from tests.probe import failure_of
from tests.running import Client, StartService, command, turn

from runner_service.errors import UnauthenticatedError
from runner_service.executions.audit import Audit
from runner_service.identity import Caller
from runner_service.storage.sqlite.backend import sqlite_storage
from runner_service.v1 import agent_runner_pb2 as runner_pb2

OPERATOR = bearer("the-operators-own-token")


async def entries(client: Client, tenant: str = "", size: int = 0) -> list[Any]:
    """Returns the whole audit, the oldest first."""
    request = runner_pb2.ListAuditRequest(tenant=tenant, page_size=size)
    found: list[Any] = []
    while True:
        page = await client.stub.ListAudit(request, metadata=OPERATOR)
        found += page.entries
        if not page.next_page_token:
            return found[::-1]
        request.page_token = page.next_page_token


async def test_what_callers_do_and_are_refused_is_audited_with_who_and_for_whom(
    start: StartService, callers: CallersYaml
) -> None:
    deputy = bearer(callers.add("deputy", "acme", ["run"], acts_for=["acme"]))
    watcher = bearer(callers.add("watcher", "acme", ["watch"]))
    waits = turn("", command("while [ ! -e go ]; do sleep 0.02; done"))
    client = await start([waits], CALLERS_FILE=str(callers.path), AUTH_TOKEN="the-operators-own-token")
    secret = runner_pb2.EnvironmentValue(value="s3cret-value", is_secret=True)
    request = client.request(execution_id="one", session_id="chat", environment={"KEY": secret})
    call = client.stub.ExecuteAgent(request, metadata=deputy)
    await call.read()
    assert (await failure_of(client.stub.ListAudit(runner_pb2.ListAuditRequest(), metadata=deputy))).code() is (
        grpc.StatusCode.PERMISSION_DENIED
    )
    cancelling = runner_pb2.CancelExecutionRequest(execution_id="one", reason="enough")
    refused = await failure_of(client.stub.CancelExecution(cancelling, metadata=watcher))
    assert refused.details() == "CancelExecution needs the role run, which watcher does not have"
    await client.stub.CancelExecution(cancelling, metadata=(*OPERATOR, *acting_for("acme")))
    events = await _rest(call)
    assert events[-1].finished.caller.name == "operator"
    deleting = runner_pb2.DeleteExecutionRequest(execution_id="one")
    async with asyncio.timeout(60):
        while await _is_refused(client.stub.DeleteExecution(deleting, metadata=deputy)):
            await asyncio.sleep(0.05)
    found = await entries(client, size=2)
    assert [(each.action, each.caller.name, each.caller.tenant, each.rpc, each.text) for each in found] == [
        ("START", "deputy", "acme", "", ""),
        ("REFUSED", "deputy", "acme", "ListAudit", "ListAudit needs the role operate, which deputy does not have"),
        ("REFUSED", "watcher", "acme", "CancelExecution", refused.details()),
        ("ACT_FOR", "operator", "acme", "CancelExecution", ""),
        ("CANCEL", "operator", "acme", "", "enough"),
        ("DELETE", "deputy", "acme", "", ""),
    ]
    assert (found[0].execution_id, found[0].session_id, list(found[0].secret_names)) == ("one", "chat", ["KEY"])
    assert "s3cret-value" not in str(found)
    assert [each.action for each in await entries(client, "globex")] == []


async def test_a_revert_is_audited_with_what_it_did_and_a_dry_run_is_not(
    start: StartService, callers: CallersYaml
) -> None:
    metadata = bearer(callers.add("ci", "default"))
    client = await start(
        [turn("", command("echo x > new")), turn("done")],
        CALLERS_FILE=str(callers.path),
        AUTH_TOKEN="the-operators-own-token",
    )
    await client.collect(client.stub.ExecuteAgent(client.request(execution_id="one"), metadata=metadata))
    for is_dry, undoes in ((True, False), (False, False), (False, True)):
        request = runner_pb2.RevertChangesRequest(execution_id="one", dry_run=is_dry, undo_revert=undoes)
        await client.stub.RevertChanges(request, metadata=metadata)
    found = await entries(client)
    assert [(each.action, each.caller.name, each.execution_id, each.text) for each in found] == [
        ("START", "ci", "one", ""),
        ("REVERT", "ci", "one", "1 files put back"),
        ("REVERT", "ci", "one", "1 files changed again"),
    ]


async def _rest(call: Any) -> list[Any]:
    events: list[Any] = []
    while (response := await call.read()) is not grpc.aio.EOF:
        events += response.events
    return events


async def _is_refused(call: Any) -> bool:
    try:
        await call
    except grpc.aio.AioRpcError as error:
        return error.code() is grpc.StatusCode.FAILED_PRECONDITION
    return False


async def test_who_am_i_says_what_the_service_sees(start: StartService, callers: CallersYaml) -> None:
    token = bearer(callers.add("ci", "acme", ["run", "approve"], acts_for=["acme"]))
    callers.caller("ci")["tokens"][0]["expires"] = "2090-01-01T00:00:00Z"
    callers.write()
    client = await start([turn("done")], CALLERS_FILE=str(callers.path))
    answer = await client.stub.WhoAmI(runner_pb2.WhoAmIRequest(), metadata=token)
    assert (answer.caller.name, answer.caller.tenant, list(answer.roles)) == ("ci", "acme", ["approve", "run"])
    assert answer.expire_time.ToJsonString() == "2090-01-01T00:00:00Z"
    assert len(answer.callers_digest) == 64


async def test_who_am_i_without_a_file_is_the_operator(start: StartService) -> None:
    client = await start([turn("done")])
    answer = await client.stub.WhoAmI(runner_pb2.WhoAmIRequest())
    assert (answer.caller.name, answer.caller.tenant, list(answer.roles)) == ("operator", "default", ["operate"])
    assert not answer.HasField("expire_time")
    assert answer.callers_digest == ""


async def test_callers_that_are_not_known_are_counted_and_the_audit_outlives_the_process(tmp_path: Path) -> None:
    async with sqlite_storage(tmp_path) as storage:
        audit = Audit()
        for _ in range(1000):
            audit.count_unknown(UnauthenticatedError("wrong token"))
        audit.record("START", key="acme~1", caller=Caller("ci", "acme", "acme"))
        audit._record_unknown()
        assert await audit.flush(storage.audit)
        await storage.audit.delete_before(0)
    async with sqlite_storage(tmp_path) as storage:
        page = await storage.audit.page("", limit=10)
        found = [runner_pb2.AuditEntry.FromString(each) for each in page.entries]
        assert [(each.action, each.count, each.text) for each in found] == [
            ("REFUSED_UNKNOWN", 1000, "UnauthenticatedError"),
            ("START", 0, ""),
        ]
        assert len((await storage.audit.page("acme", limit=10)).entries) == 1
        await storage.audit.delete_before(2e10)
        assert (await storage.audit.page("", limit=10)).entries == []
