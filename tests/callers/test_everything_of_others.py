"""Two tenants: every rpc, on everything of the other one, in every state, by every transport and role.

What another tenant has is answered as what never was: the same status, text and details but for the id. The table in
docs/tenants.md is written from what happened here; after a change: `WRITE_TENANTS_TABLE=1 pytest` this file.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, cast

import grpc
import pytest
import trustme
from grpc_status import rpc_status
from tests.callers.files import CallersYaml, acting_for, bearer, certificate_listeners
from tests.callers.issuing import issuing
from tests.docs.pages import REPOSITORY
from tests.running import Client, _environ, command, turn

from runner_service import states
from runner_service.app import running_service
from runner_service.identity import Role
from runner_service.settings import load_settings
from runner_service.storage.event_log import NewExecution
from runner_service.storage.sqlite.backend import sqlite_storage
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import agent_runner_pb2_grpc as runner_grpc
from runner_service.v1 import approval_policy_pb2 as policy_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

PAGE = REPOSITORY / "docs" / "tenants.md"
SERVICE = runner_pb2.DESCRIPTOR.services_by_name["AgentRunnerService"]
OPERATOR = bearer("the-operators-own-token")
THEIRS = (*OPERATOR, *acting_for("acme"))
ROLES = tuple(Role)
WAITS = [turn("", command("while [ ! -e go ]; do sleep 0.02; done")), turn("done")]
STORED = {
    "SUCCEEDED": states.SUCCEEDED,
    "FAILED": states.FAILED,
    "CANCELLED": states.CANCELLED,
    "TIMED_OUT": event_pb2.STATE_TIMED_OUT,
    "INTERRUPTED": states.INTERRUPTED,
}
STATES = ("PENDING", "RUNNING", "WAITING", *STORED, "DELETED")
NEVER = "x-never-was"


def request_of(rpc: str, name: str) -> Any:
    """Returns a valid request about an execution, or its session."""
    made: dict[str, Any] = {
        "ExecuteAgent": runner_pb2.ExecuteAgentRequest(execution_id=name),
        "WatchExecution": runner_pb2.WatchExecutionRequest(execution_id=name),
        "GetExecution": runner_pb2.GetExecutionRequest(execution_id=name),
        "CancelExecution": runner_pb2.CancelExecutionRequest(execution_id=name),
        "DeleteExecution": runner_pb2.DeleteExecutionRequest(execution_id=name),
        "DeleteSession": runner_pb2.DeleteSessionRequest(session_id=name),
        "ReadToolOutput": runner_pb2.ReadToolOutputRequest(
            execution_id=name, tool_call_id="call-1-1", stream=runner_pb2.OUTPUT_STREAM_STDOUT
        ),
        "ListFileChanges": runner_pb2.ListFileChangesRequest(execution_id=name),
        "GetDiff": runner_pb2.GetDiffRequest(execution_id=name),
        "RevertChanges": runner_pb2.RevertChangesRequest(execution_id=name),
        "SubmitApproval": runner_pb2.SubmitApprovalRequest(
            execution_id=name, tool_call_id="call-1-1", action=event_pb2.APPROVAL_ACTION_APPROVE
        ),
        "ListApprovals": runner_pb2.ListApprovalsRequest(execution_id=name),
    }
    return made[rpc]


LISTS: dict[str, Any] = {
    "ListExecutions": runner_pb2.ListExecutionsRequest(),
    "WatchApprovals": runner_pb2.WatchApprovalsRequest(),
    "ListAudit": runner_pb2.ListAuditRequest(),
    "WhoAmI": runner_pb2.WhoAmIRequest(),
}
"""Rpcs that name no execution. All of the audit is the operator's."""

ABOUT_ONE = [name for name in SERVICE.methods_by_name if name not in LISTS]


class Answer(NamedTuple):
    """The status of a call, and its text and details without the id."""

    code: str
    text: str
    details: tuple[bytes, ...]


class Way(NamedTuple):
    """A connection and the metadata that make a caller with one role of the tenant globex."""

    transport: str
    role: Role
    stub: Any
    metadata: Any


async def answer(way: Way, rpc: str, request: Any, name: str) -> Answer:
    call = getattr(way.stub, rpc)(request, metadata=way.metadata, timeout=30)
    try:
        if SERVICE.methods_by_name[rpc].server_streaming:
            await call.read()
            call.cancel()
        else:
            await call
    except grpc.aio.AioRpcError as error:
        status = rpc_status.from_call(cast(Any, error))
        assert status is not None
        details = tuple(each.SerializeToString() for each in status.details)
        return Answer(error.code().name, (error.details() or "").replace(name, "ID"), details)
    return Answer("OK", "", ())


@asynccontextmanager
async def ways(tmp_path: Path, callers: CallersYaml) -> AsyncIterator[tuple[Client, list[Way]]]:
    """Serves with four transports, and yields the operator's client and a way in for each transport and role."""
    authority = trustme.CA()
    variables = {
        **certificate_listeners(tmp_path, authority),
        "CALLERS_FILE": str(callers.path),
        "AUTH_TOKEN": "the-operators-own-token",
        "MAX_CONCURRENT_EXECUTIONS": "1",
        "APPROVAL_HOLD": "0",
        "DEFAULT_COMMAND_TIMEOUT": "600",  # one runs all the time
    }
    async with AsyncExitStack() as parts:
        issuer = await parts.enter_async_context(issuing())
        tokens = {role: callers.add(f"token-{role}", "globex", [str(role)]) for role in ROLES}
        for role in ROLES:
            for way, more in (
                ("certificate", {"certificates": [f"dns:{role}.example"]}),
                ("socket", {"path": str(tmp_path / f"{role}.sock")}),
            ):
                kind = "sockets" if way == "socket" else "callers"
                entry = {"name": f"{way}-{role}", "tenant": "globex", "roles": [str(role)], **more}
                callers.content[kind].append(entry)
        rules = [{"match": {"sub": f"robot-{role}"}, "tenant": "globex", "roles": [str(role)]} for role in ROLES]
        callers.content["issuers"] = [issuer.entry(rules=rules)]
        callers.write()
        service = await parts.enter_async_context(running_service(load_settings(_environ(tmp_path, WAITS, variables))))
        root = authority.cert_pem.bytes()
        by_token, by_certificate = service.server.listen_addresses

        async def stub(address: str, credentials: grpc.ChannelCredentials | None) -> Any:
            made = grpc.aio.secure_channel(address, credentials) if credentials else grpc.aio.insecure_channel(address)
            return runner_grpc.AgentRunnerServiceStub(await parts.enter_async_context(made))

        plain = await stub(by_token, grpc.ssl_channel_credentials(root))
        found = []
        for role in ROLES:
            own = authority.issue_cert(f"{role}.example")
            mtls = grpc.ssl_channel_credentials(root, own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes())
            found += [
                Way("token", role, plain, bearer(tokens[role])),
                Way("signed token", role, plain, bearer(issuer.token(sub=f"robot-{role}"))),
                Way("certificate", role, await stub(by_certificate, mtls), ()),
                Way("socket", role, await stub(f"unix:{tmp_path / f'{role}.sock'}", None), ()),
            ]
        yield Client(service, plain), found


async def make_theirs(client: Client) -> None:
    """Gives acme an execution in each state that needs a service; the others are in the log already."""
    asks = policy_pb2.ApprovalPolicy(mode=policy_pb2.APPROVAL_MODE_ASK_EFFECTS)
    ways_to_it: list[tuple[str, dict[str, Any]]] = [
        ("WAITING", {"approval_policy": asks}),
        ("RUNNING", {}),
        ("PENDING", {}),
    ]
    for name, fields in ways_to_it:
        detached = runner_pb2.DISCONNECT_POLICY_DETACH
        request = client.request(execution_id=f"x-{name}", session_id=f"x-{name}", disconnect_policy=detached, **fields)
        call = client.stub.ExecuteAgent(request, metadata=THEIRS)
        wanted = event_pb2.State.Value(f"STATE_{name}")
        asked = runner_pb2.GetExecutionRequest(execution_id=f"x-{name}")
        async with asyncio.timeout(30):
            await call.read()
            while (await client.stub.GetExecution(asked, metadata=THEIRS)).execution.state != wanted:
                await asyncio.sleep(0.02)
        call.cancel()


async def store_theirs(state_dir: Path) -> None:
    """Puts executions of acme that have ended, or were interrupted, into a log."""
    async with sqlite_storage(state_dir) as storage:
        for name, state in {**STORED, "DELETED": states.SUCCEEDED}.items():
            record = runner_pb2.Execution(execution_id=f"acme~x-{name}", session_id=f"acme~x-{name}", state=state)
            await storage.log.append([NewExecution(record, b"")])
        await storage.log.delete("acme~x-DELETED")


def table(answers: dict[tuple[str, Role], str]) -> str:
    """Returns the table for the page."""
    lines = [f"| rpc | {' | '.join(ROLES)} |", f"| --- |{' --- |' * len(ROLES)}"]
    lines += [f"| {rpc} | {' | '.join(answers[rpc, role] for role in ROLES)} |" for rpc in SERVICE.methods_by_name]
    return "\n".join(lines) + "\n"


@pytest.mark.timeout(240)
@pytest.mark.long
async def test_everything_of_another_tenant_is_as_what_never_was(tmp_path: Path, callers: CallersYaml) -> None:
    assert set(ABOUT_ONE) == {rpc for rpc in ABOUT_ONE if request_of(rpc, NEVER)}
    await store_theirs(tmp_path / "state")
    answers: dict[tuple[str, Role], str] = {}
    async with ways(tmp_path, callers) as (client, found):
        await make_theirs(client)
        for way in found:
            for rpc in ABOUT_ONE:
                never = await answer(way, rpc, request_of(rpc, NEVER), NEVER)
                assert "~" not in never.text
                for state in STATES:
                    name = f"x-{state}"
                    got = await answer(way, rpc, request_of(rpc, name), name)
                    assert got == never, (rpc, state, way.transport, way.role)
                said = {"NOT_FOUND": "unknown", "PERMISSION_DENIED": "denied"}[never.code]
                assert answers.setdefault((rpc, way.role), said) == said
            for rpc, request in LISTS.items():
                said = await listed(way, rpc, request)
                assert answers.setdefault((rpc, way.role), said) == said
        for state in STATES[:-1]:  # nothing of theirs was touched
            asked = runner_pb2.GetExecutionRequest(execution_id=f"x-{state}")
            record = (await client.stub.GetExecution(asked, metadata=THEIRS)).execution
            assert record.state == event_pb2.State.Value(f"STATE_{state}")
    check_page(table(answers))


async def listed(way: Way, rpc: str, request: Any) -> str:
    """Calls an rpc that names no execution. Returns what it shows of the other tenant."""
    got = await answer(way, rpc, request, NEVER)
    if got.code != "OK":
        assert got.code == "PERMISSION_DENIED"
        return "denied"
    if rpc == "ListExecutions":
        assert list((await way.stub.ListExecutions(request, metadata=way.metadata)).executions) == []
    if rpc == "WatchApprovals":
        call = way.stub.WatchApprovals(request, metadata=way.metadata)
        assert list((await call.read()).approvals) == []
        call.cancel()
    return {"ListAudit": "of all tenants", "WhoAmI": "oneself"}.get(rpc, "nothing of it")


def check_page(expected: str) -> None:
    """Compares the table with the page, or writes it there."""
    head, mark, tail = PAGE.read_text().partition("<!-- written by tests/callers/test_everything_of_others.py -->\n")
    assert mark
    rest = tail.partition("\n<!-- end -->")[2]
    page = f"{head}{mark}\n{expected}\n<!-- end -->{rest}"
    if os.environ.get("WRITE_TENANTS_TABLE"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page, "the table has changed: WRITE_TENANTS_TABLE=1 writes it"


def test_the_table_has_every_rpc() -> None:
    text = PAGE.read_text()
    rows: Sequence[str] = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert [name for name in SERVICE.methods_by_name if name not in rows] == []
