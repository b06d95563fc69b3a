"""Executions belong to tenants: other tenants' ids are not there."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import grpc
import pytest
from tests.callers.files import CallersYaml, bearer
from tests.probe import failure_of
from tests.running import Client, StartProcess, StartService, command, one, turn

from runner_service.api.callers.roles import ROLE_OF_RPC, may_call, require_role
from runner_service.errors import PermissionDeniedError
from runner_service.identity import OPERATOR, Caller, Role, bare_id, owner_key, tenant_of
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import approval_policy_pb2 as policy_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

SERVICE = runner_pb2.DESCRIPTOR.services_by_name["AgentRunnerService"]


def tenant(name: str) -> tuple[tuple[str, str], ...]:
    return (("x-runner-tenant", name),)


def test_every_rpc_has_a_role() -> None:
    assert set(ROLE_OF_RPC) == set(SERVICE.methods_by_name)


@pytest.mark.parametrize("rpc", sorted(SERVICE.methods_by_name))
def test_a_role_opens_what_the_table_says_and_an_rpc_that_is_not_in_it_is_open_to_nobody(rpc: str) -> None:
    allowed = {role for role in Role if may_call(Caller("c", roles=frozenset({role})), rpc)}
    assert Role.OPERATE in allowed
    assert (Role.WATCH in allowed) is (ROLE_OF_RPC[rpc] is Role.WATCH)
    with pytest.raises(PermissionDeniedError):
        require_role(OPERATOR, f"/{SERVICE.full_name}/{rpc}Next")
    with pytest.raises(PermissionDeniedError):
        require_role(Caller("nobody"), f"/{SERVICE.full_name}/{rpc}")


@pytest.mark.parametrize(("owner", "key"), [("default", "chat"), ("acme", "acme~chat")])
def test_a_key_tells_its_tenant_and_its_id(owner: str, key: str) -> None:
    assert owner_key(owner, "chat") == key
    assert (tenant_of(key), bare_id(key)) == (owner, "chat")


async def ended(client: Client, execution_id: str, metadata: Any, **fields: Any) -> list[Any]:
    request = client.request(execution_id=execution_id, **fields)
    return await client.collect(client.stub.ExecuteAgent(request, metadata=metadata))


async def test_the_same_ids_in_three_tenants_are_three_executions_with_directories_of_their_own(
    start: StartService, tmp_path: Path
) -> None:
    client = await start(
        [turn("", command("pwd; echo x >> mine; wc -l < mine")), turn("done")], SANDBOX_SCOPE="session"
    )
    roots, outputs = set(), []
    for name in ("default", "acme", "globex"):
        events = await ended(client, "nightly", tenant(name), session_id="chat")
        started = one(events, "started")
        roots.add(started.sandbox.root)
        outputs.append(b"".join(each.tool_output.stdout for each in events).split()[-1])
        assert started.caller.tenant == name
        assert {each.execution_id for each in events} == {"nightly"}
    assert len(roots) == 3
    assert outputs == [b"1"] * 3
    for name in ("acme", "globex"):
        page = await client.stub.ListExecutions(runner_pb2.ListExecutionsRequest(), metadata=tenant(name))
        assert [(each.execution_id, each.session_id, each.tenant) for each in page.executions] == [
            ("nightly", "chat", name)
        ]
    page = await client.stub.ListExecutions(runner_pb2.ListExecutionsRequest(tenant="*"))
    assert {each.tenant for each in page.executions} == {"default", "acme", "globex"}


async def test_the_same_ids_in_three_tenants_are_resumed_each_as_itself_after_a_kill(
    start_process: StartProcess, tmp_path: Path
) -> None:
    turns = [
        turn("", command("echo x >> mine; echo begun; while [ ! -e go ]; do sleep 0.05; done")),
        turn("", command("wc -l < mine")),
        turn("done"),
    ]
    service = await start_process(turns, SANDBOX_SCOPE="session")
    names = ("default", "acme", "globex")
    roots: dict[str, str] = {}
    for name in names:
        request = service.client.request(
            execution_id="nightly", session_id="chat", disconnect_policy=runner_pb2.DISCONNECT_POLICY_DETACH
        )
        call = service.stub.ExecuteAgent(request, metadata=tenant(name))
        async for response in call:
            for each in response.events:
                roots[name] = each.started.sandbox.root or roots.get(name, "")
            if any(each.HasField("tool_output") for each in response.events):
                break
        call.cancel()
    await service.kill()
    assert len(set(roots.values())) == 3
    for root in roots.values():
        assert (Path(root) / "mine").read_text() == "x\n"
    service = await start_process(SANDBOX_SCOPE="session")
    for name in names:
        events = await ended(service.client, "nightly", tenant(name), session_id="chat", disconnect_policy=2)
        started = [each.started for each in events if each.HasField("started")]
        assert [each.resumed for each in started] == [False, True]
        assert {(each.sandbox.root, each.caller.tenant) for each in started} == {(roots[name], name)}
        assert [each.sequence for each in events] == list(range(1, len(events) + 1))
        assert b"".join(each.tool_output.stdout for each in events) == b"begun\n1\n"
        assert one(events, "finished").state == event_pb2.STATE_SUCCEEDED


async def test_a_session_of_default_cannot_be_named_like_the_directory_of_another_tenant(start: StartService) -> None:
    client = await start([turn("", command("pwd")), turn("done")], SANDBOX_SCOPE="session")
    theirs = one(await ended(client, "1", tenant("acme"), session_id="chat"), "started").sandbox.root
    for guess in ("session-4d83fdfb36377cdafd4fa73ad8dce1d2", "acme", Path(theirs).name.replace("~", "-")):
        mine = one(await ended(client, "", (), session_id=guess), "started").sandbox.root
        assert mine != theirs
    with pytest.raises(grpc.aio.AioRpcError, match="session_id"):
        await ended(client, "", (), session_id=Path(theirs).name)


async def test_what_a_tenant_has_ends_when_it_leaves_the_file_and_its_log_stays_for_the_operator(
    start: StartService, callers: CallersYaml
) -> None:
    token = bearer(callers.add("ci", "acme"))
    mine = bearer(callers.add("mine", "acme"))
    operator = bearer("the-operators-own-token")
    asks = policy_pb2.ApprovalPolicy(mode=policy_pb2.APPROVAL_MODE_ASK_EFFECTS)
    client = await start(
        [turn("", command("sleep 300")), turn("done")],
        CALLERS_FILE=str(callers.path),
        AUTH_TOKEN="the-operators-own-token",
        MAX_CONCURRENT_EXECUTIONS="2",
        APPROVAL_HOLD="0",
    )

    async def begin(name: str, state: str, metadata: Any, **fields: Any) -> None:
        request = client.request(
            execution_id=name, session_id=name, disconnect_policy=runner_pb2.DISCONNECT_POLICY_DETACH, **fields
        )
        call = client.stub.ExecuteAgent(request, metadata=metadata)
        await call.read()
        async with asyncio.timeout(30):
            while await state_of(name, metadata) != f"STATE_{state}":
                await asyncio.sleep(0.02)
        call.cancel()

    async def state_of(name: str, metadata: Any) -> str:
        asked = runner_pb2.GetExecutionRequest(execution_id=name)
        return event_pb2.State.Name((await client.stub.GetExecution(asked, metadata=metadata)).execution.state)

    await begin("waits", "WAITING", token, approval_policy=asks)
    await begin("runs", "RUNNING", token)
    await begin("other", "RUNNING", operator)
    await begin("queued", "PENDING", token)
    callers.content["callers"] = []
    callers.add("next", "default")

    theirs = (*operator, *tenant("acme"))
    async with asyncio.timeout(30):
        for name in ("waits", "runs", "queued"):
            while await state_of(name, theirs) != "STATE_CANCELLED":
                await asyncio.sleep(0.05)
            asked = runner_pb2.GetExecutionRequest(execution_id=name)
            record = (await client.stub.GetExecution(asked, metadata=theirs)).execution
            assert record.error.message == "cancelled: the tenant acme is no longer in CALLERS_FILE"
    assert await state_of("other", operator) == "STATE_RUNNING"
    refused = await failure_of(client.stub.ListExecutions(runner_pb2.ListExecutionsRequest(), metadata=mine))
    assert refused.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_second_tenant_that_joins_the_file_without_walls_between_their_commands_is_refused(
    start: StartService, callers: CallersYaml, caplog: pytest.LogCaptureFixture
) -> None:
    token = bearer(callers.add("ci", "acme"))
    client = await start([turn("done")], CALLERS_FILE=str(callers.path))
    other = bearer(callers.add("other", "globex"))
    async with asyncio.timeout(60):
        while "callers_file_unusable" not in caplog.text:
            await asyncio.sleep(0.05)
    assert "set SANDBOX_SCOPE=session and SANDBOX_CONFINEMENT=workspace" in caplog.text
    await client.stub.ListExecutions(runner_pb2.ListExecutionsRequest(), metadata=token)
    refused = await failure_of(client.stub.ListExecutions(runner_pb2.ListExecutionsRequest(), metadata=other))
    assert refused.code() is grpc.StatusCode.UNAUTHENTICATED


def requests_for(execution_id: str) -> dict[str, Any]:
    """A valid request of every rpc that names an execution or a session."""
    session = {"session_id": "chat"} if execution_id == "theirs" else {"session_id": "none"}
    return {
        "ExecuteAgent": runner_pb2.ExecuteAgentRequest(execution_id=execution_id),
        "WatchExecution": runner_pb2.WatchExecutionRequest(execution_id=execution_id),
        "GetExecution": runner_pb2.GetExecutionRequest(execution_id=execution_id),
        "CancelExecution": runner_pb2.CancelExecutionRequest(execution_id=execution_id),
        "DeleteExecution": runner_pb2.DeleteExecutionRequest(execution_id=execution_id),
        "DeleteSession": runner_pb2.DeleteSessionRequest(**session),
        "ReadToolOutput": runner_pb2.ReadToolOutputRequest(
            execution_id=execution_id, tool_call_id="c", stream=runner_pb2.OUTPUT_STREAM_STDOUT
        ),
        "SubmitApproval": runner_pb2.SubmitApprovalRequest(
            execution_id=execution_id, tool_call_id="c", action=event_pb2.APPROVAL_ACTION_SKIP
        ),
        "ListApprovals": runner_pb2.ListApprovalsRequest(execution_id=execution_id),
    }


async def refusal(call: Any) -> tuple[Any, str, Any]:
    error = await failure_of(call)
    trailers = {key: value for key, value in error.trailing_metadata() or () if key == "grpc-status-details-bin"}
    return error.code(), error.details() or "", trailers.get("grpc-status-details-bin")


@pytest.mark.parametrize("rpc", sorted(requests_for("x")))
async def test_what_another_tenant_has_is_refused_as_what_never_was(start: StartService, rpc: str) -> None:
    client = await start([turn("done")])
    await ended(client, "theirs", tenant("acme"), session_id="chat")
    answers = []
    for name in ("theirs", "neverw"):
        method = getattr(client.stub, rpc)
        code, text, details = await refusal(method(requests_for(name)[rpc], metadata=tenant("globex")))
        blank = text.replace(name, "ID").replace("chat", "SESSION").replace("none", "SESSION")
        answers.append((code, blank, details and details.replace(name.encode(), b"theirs").replace(b"none", b"chat")))
    assert answers[0] == answers[1]
    assert answers[0][0] is grpc.StatusCode.NOT_FOUND
    assert "~" not in answers[0][1]


@pytest.mark.parametrize(
    ("metadata", "code"),
    [
        ((*tenant("acme"), *tenant("globex")), grpc.StatusCode.INVALID_ARGUMENT),
        (tenant("ACME"), grpc.StatusCode.INVALID_ARGUMENT),
        (tenant(""), grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
async def test_a_call_names_one_tenant_or_none(start: StartService, metadata: Any, code: grpc.StatusCode) -> None:
    client = await start([turn("done")])
    error = await failure_of(client.stub.ListExecutions(runner_pb2.ListExecutionsRequest(), metadata=metadata))
    assert error.code() is code


async def test_a_page_token_tells_nothing_and_is_for_its_tenant_alone(start: StartService) -> None:
    client = await start([turn("done")])
    for number in range(3):
        await ended(client, str(number), tenant("acme"))
    request = runner_pb2.ListExecutionsRequest(page_size=1)
    first = await client.stub.ListExecutions(request, metadata=tenant("acme"))
    again = await client.stub.ListExecutions(request, metadata=tenant("acme"))
    assert first.next_page_token != again.next_page_token
    assert b":" not in base64.urlsafe_b64decode(first.next_page_token + "===")[:4]
    request.page_token = first.next_page_token
    second = await client.stub.ListExecutions(request, metadata=tenant("acme"))
    assert [each.execution_id for each in (*first.executions, *second.executions)] == ["2", "1"]
    for other in (first.next_page_token[:-1], "4::", "x" * 200):
        request.page_token = other
        assert (await failure_of(client.stub.ListExecutions(request, metadata=tenant("acme")))).code() is (
            grpc.StatusCode.INVALID_ARGUMENT
        )
    request.page_token = first.next_page_token
    refused = await failure_of(client.stub.ListExecutions(request, metadata=tenant("globex")))
    assert refused.details() == "page_token: must be a next_page_token that was given for the same filters, or empty"
