"""A caller of one tenant tries to reach what another has: by names, metadata, filters, tokens of pages and cookies."""

import asyncio
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
from google.protobuf.json_format import MessageToDict
from tests.callers.files import CallersYaml, acting_for, bearer
from tests.callers.test_everything_of_others import ABOUT_ONE, SERVICE, request_of
from tests.probe import failure_of
from tests.running import Client, StartService, command, one, turn
from tests.web.test_security import post, session, web_address

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2
from runner_service.web.calls import RPCS

OPERATOR = bearer("the-operators-own-token")
THEIRS = (*OPERATOR, *acting_for("acme"))
SECRET = "what-acme-alone-knows"
CALL = "call-1-1"


class Attack(NamedTuple):
    """A service with an execution of acme, and a caller of globex, which may do everything but operate."""

    client: Client
    mine: Any
    token: str

    async def said(self, rpc: str, request: Any, metadata: Any = None) -> tuple[str, str]:
        """Returns the status of a call that must fail, and its text."""
        call = getattr(self.client.stub, rpc)(request, metadata=metadata or self.mine, timeout=30)
        error = await failure_of(call)
        return error.code().name, error.details() or ""


@pytest.fixture
async def attack(start: StartService, callers: CallersYaml) -> Attack:
    token = callers.add("attacker", "globex", ["run", "approve"])
    client = await start(
        [turn("", command(f"echo {SECRET} | tee file")), turn(SECRET)],
        CALLERS_FILE=str(callers.path),
        AUTH_TOKEN="the-operators-own-token",
        SANDBOX_SCOPE="session",
        WEB_ADDRESS="127.0.0.1:0",
    )
    request = client.request(execution_id="nightly", session_id="chat", labels={"team": "blue"})
    await client.collect(client.stub.ExecuteAgent(request, metadata=THEIRS))
    return Attack(client, bearer(token), token.token)


NAMES = [
    "acme~nightly",
    "~nightly",
    "default~nightly",
    "globex~nightly",
    "globex~acme~nightly",
    "acme\u223cnightly",
    "acme\uff5enightly",
    "acme\u007enightly",
    "acme%7Enightly",
    "acme/nightly",
    "../nightly",
    "nightly\u200b",
    "n\u0131ghtly",
    "nightly\x00",
    " nightly",
    "nightly\n",
    "{nightly}",
    "nightly:x",
    "*",
]


async def test_a_name_that_could_be_a_key_is_an_invalid_name_whatever_there_is(attack: Attack) -> None:
    for name in NAMES:
        for rpc in ABOUT_ONE:
            got = await attack.said(rpc, request_of(rpc, name))
            assert got == await attack.said(rpc, request_of(rpc, name.replace("ly", "er")))
            assert got[0] == "INVALID_ARGUMENT", (rpc, name)
            assert got[1].startswith(("execution_id: must", "session_id: must")), (rpc, name)
        for request in (
            runner_pb2.ListExecutionsRequest(session_id=name),
            runner_pb2.ExecuteAgentRequest(
                execution_id="x", session_id=name, agent=runner_pb2.Agent(instructions="x"), message="x"
            ),
            runner_pb2.ListApprovalsRequest(session_id=name),
            runner_pb2.WatchApprovalsRequest(session_id=name),
        ):
            rpc = type(request).__name__.removesuffix("Request")
            assert (await attack.said(rpc, request))[0] == "INVALID_ARGUMENT", (rpc, name)


async def test_no_tool_call_leads_to_the_output_of_another_execution(attack: Attack) -> None:
    stub = attack.client.stub
    await attack.client.collect(stub.ExecuteAgent(attack.client.request(execution_id="mine"), metadata=attack.mine))
    for call in (CALL, "../1/call-1-1", "acme~nightly/call-1-1", "nightly:o:call-1-1", "/etc/passwd", "*", "%"):
        request = runner_pb2.ReadToolOutputRequest(
            execution_id="mine", tool_call_id=call, stream=runner_pb2.OUTPUT_STREAM_STDOUT
        )
        if call == CALL:
            answer = await stub.ReadToolOutput(request, metadata=attack.mine)
            assert answer.data.decode().strip() == SECRET, "its own command has printed that"
        else:
            assert (await attack.said("ReadToolOutput", request))[0] == "NOT_FOUND", call


async def test_metadata_names_no_tenant_that_the_caller_may_not_act_for_whether_there_is_one_or_not(
    attack: Attack,
) -> None:
    listing = runner_pb2.ListExecutionsRequest()
    for names, code in (
        (["acme"], "PERMISSION_DENIED"),
        (["never"], "PERMISSION_DENIED"),
        (["default"], "PERMISSION_DENIED"),
        (["globex", "acme"], "INVALID_ARGUMENT"),
        (["acme", "globex"], "INVALID_ARGUMENT"),
        (["globex", "globex"], "INVALID_ARGUMENT"),
        ([""], "INVALID_ARGUMENT"),
        (["*"], "INVALID_ARGUMENT"),
        (["ACME"], "INVALID_ARGUMENT"),
        (["acme~"], "INVALID_ARGUMENT"),
        (["acme,globex"], "INVALID_ARGUMENT"),
    ):
        metadata = (*attack.mine, *(("x-runner-tenant", name) for name in names))
        got = await attack.said("ListExecutions", listing, metadata)
        assert got[0] == code, names
    texts = [await attack.said("GetExecution", request_of("GetExecution", "nightly"), (*attack.mine, *acting_for(name)))
             for name in ("acme", "never")]  # fmt: skip
    assert texts[0][1].replace("acme", "T") == texts[1][1].replace("never", "T")


async def test_lists_show_nothing_of_others_by_any_filter_and_no_page_of_theirs(attack: Attack) -> None:
    stub, mine = attack.client.stub, attack.mine
    for fields in ({}, {"session_id": "chat"}, {"labels": {"team": "blue"}}, {"states": [event_pb2.STATE_SUCCEEDED]}):
        request = runner_pb2.ListExecutionsRequest(**fields)
        assert not (await stub.ListExecutions(request, metadata=mine)).executions
        assert (await stub.ListExecutions(request, metadata=THEIRS)).executions, "the operator sees it"
    for tenant in ("acme", "*", "never"):
        code, text = await attack.said("ListExecutions", runner_pb2.ListExecutionsRequest(tenant=tenant))
        assert code == "INVALID_ARGUMENT"
        assert "acme" not in text
    await attack.client.collect(stub.ExecuteAgent(attack.client.request(), metadata=THEIRS))
    page = await stub.ListExecutions(runner_pb2.ListExecutionsRequest(page_size=1), metadata=THEIRS)
    assert page.next_page_token
    given = page.next_page_token
    for rpc, asked in (
        ("ListExecutions", runner_pb2.ListExecutionsRequest(page_size=1, page_token=given)),
        ("ListApprovals", runner_pb2.ListApprovalsRequest(page_size=1, page_token=given)),
        ("ListFileChanges", runner_pb2.ListFileChangesRequest(execution_id="nightly", page_token=given)),
    ):
        assert (await attack.said(rpc, asked))[0] == "INVALID_ARGUMENT"
    assert (await attack.said("ListAudit", runner_pb2.ListAuditRequest(tenant="globex")))[0] == "PERMISSION_DENIED"


async def test_the_same_ids_start_something_of_ones_own_which_knows_nothing_of_theirs(attack: Attack) -> None:
    client = attack.client
    before = await client.stub.GetExecution(request_of("GetExecution", "nightly"), metadata=THEIRS)
    request = client.request(execution_id="nightly", session_id="chat", message="another request")
    events = await client.collect(client.stub.ExecuteAgent(request, metadata=attack.mine))
    started = one(events, "started")
    assert (started.resumed, started.caller.name) == (False, "attacker")
    assert SECRET in one(events, "finished").output, "its own turn says so too"
    assert one(events, "tool_call_finished").exit_code == 0
    theirs = await client.stub.GetExecution(request_of("GetExecution", "nightly"), metadata=THEIRS)
    assert theirs == before
    changes = await client.stub.ListFileChanges(request_of("ListFileChanges", "nightly"), metadata=attack.mine)
    assert [each.path for each in changes.changes] == ["file"]
    for rpc in ("RevertChanges", "DeleteExecution", "DeleteSession"):
        name = "chat" if rpc == "DeleteSession" else "nightly"
        async with asyncio.timeout(30):
            while (await _status(client, rpc, request_of(rpc, name), attack.mine)) == "FAILED_PRECONDITION":
                await asyncio.sleep(0.05)
    theirs = await client.stub.GetExecution(request_of("GetExecution", "nightly"), metadata=THEIRS)
    assert theirs == before
    diff = await client.stub.GetDiff(request_of("GetDiff", "nightly"), metadata=THEIRS)
    assert SECRET in diff.diff


async def _status(client: Client, rpc: str, request: Any, metadata: Any) -> str:
    try:
        await getattr(client.stub, rpc)(request, metadata=metadata)
    except grpc.aio.AioRpcError as error:
        return error.code().name
    return "OK"


def test_every_path_of_the_page_is_an_rpc_of_the_table() -> None:
    assert set(SERVICE.methods_by_name) >= RPCS


async def test_the_page_shows_a_tenant_nothing_of_another_and_takes_no_cookie_of_another_service(
    attack: Attack, start: StartService, tmp_path: Path
) -> None:
    address = web_address(attack.client)
    async with session() as http:
        assert (await post(http, address, "/login", {"token": attack.token}))[0] == 200
        for rpc in sorted(RPCS & set(ABOUT_ONE)):
            answers = []
            for name in ("nightly", "neverly"):
                status, body = await post(http, address, f"/api/{rpc}", MessageToDict(request_of(rpc, name)))
                answers.append((status, body.replace(name.encode(), b"ID")))
            assert answers[0] == answers[1], rpc
            assert answers[0][0] == 404, rpc
            assert (await post(http, address, f"/api/{rpc}", MessageToDict(request_of(rpc, "acme~nightly"))))[0] == 400
            status, _ = await post(http, address, f"/api/{rpc}", MessageToDict(request_of(rpc, "nightly")),
                                   x_runner_tenant="acme")  # fmt: skip
            assert status == 403, rpc
        status, body = await post(http, address, "/api/ListExecutions")
        assert (status, body) == (200, b"")
        assert (await post(http, address, "/api/ListExecutions", {"tenant": "acme"}))[0] == 400

    other = await start(STATE_DIR=str(tmp_path / "other"), WEB_ADDRESS="127.0.0.1:0", AUTH_TOKEN="x")
    async with session() as http:
        assert (await post(http, web_address(other), "/login", {"token": "x"}))[0] == 200
        (cookie,) = [each.value for each in http.cookie_jar]
    async with session() as http:
        port = address.rpartition(":")[2]
        given = {"Cookie": f"runner-service-{port}={cookie}"}
        assert (await post(http, address, "/api/ListExecutions", {}, **given))[0] == 401
