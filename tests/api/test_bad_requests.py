"""A wrong request is refused at once and whole, and says what to do."""

from collections.abc import Callable
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # it has types, but no marker
from grpc_status import rpc_status
from tests.running import StartService, turn

from runner_service.api.validation import requests
from runner_service.errors import InvalidRequestError
from runner_service.identity import OPERATOR
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

_check_list = partial(requests.check_list, caller=OPERATOR)


def execute(**fields: Any) -> runner_pb2.ExecuteAgentRequest:
    return runner_pb2.ExecuteAgentRequest(**{"agent": runner_pb2.Agent(), "message": "go", **fields})


def secret(value: str) -> runner_pb2.EnvironmentValue:
    return runner_pb2.EnvironmentValue(value=value, is_secret=True)


def limits(**fields: Any) -> runner_pb2.ExecutionLimits:
    made = runner_pb2.ExecutionLimits(**{name: value for name, value in fields.items() if name != "timeout"})
    if "timeout" in fields:
        made.timeout.FromNanoseconds(fields["timeout"])
    return made


STDIO = runner_pb2.StdioServer(command="server")


def with_server(server: runner_pb2.McpServer, *sub_agents: runner_pb2.SubAgent) -> runner_pb2.ExecuteAgentRequest:
    server.name = "a"
    return execute(agent=runner_pb2.Agent(mcp_servers=[server], sub_agents=sub_agents))


def stdio(**fields: Any) -> runner_pb2.ExecuteAgentRequest:
    return with_server(runner_pb2.McpServer(stdio=runner_pb2.StdioServer(**{"command": "server", **fields})))


def http(**fields: Any) -> runner_pb2.ExecuteAgentRequest:
    return with_server(runner_pb2.McpServer(http=runner_pb2.HttpServer(**{"url": "http://x", **fields})))


def with_sub_agent(**fields: Any) -> runner_pb2.ExecuteAgentRequest:
    sub_agent = runner_pb2.SubAgent(name="b", description="Helps.", **fields)
    return with_server(runner_pb2.McpServer(stdio=STDIO), sub_agent)


WRONG = {
    "execution_id": execute(execution_id="../etc"),
    "agent": runner_pb2.ExecuteAgentRequest(),
    "session_id": execute(session_id="-x"),
    "after_sequence": execute(after_sequence=-1),
    "disconnect_policy": execute(disconnect_policy=99),
    "message": execute(message=" \n"),
    "agent.name": execute(agent=runner_pb2.Agent(name="n" * 257)),
    "agent.instructions": execute(agent=runner_pb2.Agent(instructions="i" * (1024 * 1024 + 1))),
    "agent.model.provider": execute(agent=runner_pb2.Agent(model=runner_pb2.Model(provider="oracle"))),
    "agent.model.temperature": execute(agent=runner_pb2.Agent(model=runner_pb2.Model(temperature=2.5))),
    "agent.model.max_output_tokens": execute(agent=runner_pb2.Agent(model=runner_pb2.Model(max_output_tokens=-1))),
    "agent.model.name": execute(agent=runner_pb2.Agent(model=runner_pb2.Model(name="m" * 257))),
    "agent.mcp_servers[0].stdio.command": stdio(command="x" * 4097),
    "agent.mcp_servers[0].stdio.working_directory": stdio(working_directory="x" * 4097),
    "agent.mcp_servers[0].stdio.args": stdio(args=["x"] * 257),
    "agent.mcp_servers[0].stdio.environment": stdio(environment={f"V{number}": "" for number in range(257)}),
    "agent.mcp_servers[0].http.url": http(url="http://x/" + "x" * 8192),
    "agent.mcp_servers[0].http.headers": http(headers={f"H{number}": "" for number in range(65)}),
    "agent.mcp_servers[0].http.headers['A']": http(headers={"A": "x" * 8193}),
    f"agent.mcp_servers[0].http.headers['{'A' * 256}']": http(headers={"A" * 257: "x"}),
    "agent.mcp_servers[0].http.query": http(query={f"q{number}": "" for number in range(65)}),
    "agent.mcp_servers[0].http.query['a']": http(query={"a": "x" * 8193}),
    "agent.mcp_servers[0].enabled_tools": with_server(runner_pb2.McpServer(enabled_tools=["x"] * 257, stdio=STDIO)),
    "agent.sub_agents[0].mcp_servers": with_sub_agent(mcp_servers=["a"] * 33),
    "agent.sub_agents[0].tool_selections['a']": with_sub_agent(
        tool_selections={"a": runner_pb2.ToolSelection(enabled_tools=["x" * 257])}
    ),
    "environment['1A']": execute(environment={"1A": runner_pb2.EnvironmentValue(value="x")}),
    "environment['A'].value": execute(environment={"A": secret("short")}),
    "environment": execute(environment={"A": runner_pb2.EnvironmentValue(value="x" * 300_000)}),
    "limits.timeout": execute(limits=limits(timeout=0)),
    "limits.max_model_calls": execute(limits=limits(max_model_calls=-1)),
    "labels['']": execute(labels={"": "x"}),
}


WRONG_IN_SIZE = [
    stdio(args=["x" * 300_000]),
    stdio(environment={"A": "x" * 300_000}),
    with_server(runner_pb2.McpServer(enabled_tools=["x" * 257], stdio=STDIO)),
    with_sub_agent(tool_selections={"a": runner_pb2.ToolSelection(enabled_tools=["x"] * 257)}),
]


@pytest.mark.parametrize("request_", WRONG_IN_SIZE)
def test_what_is_too_large_is_refused_in_few_words(request_: runner_pb2.ExecuteAgentRequest) -> None:
    with pytest.raises(InvalidRequestError, match="must have at most") as refused:
        requests.check_execute(request_)

    assert len(refused.value.message) < 1000


@pytest.mark.parametrize("field", WRONG)
def test_the_wrong_field_is_named(field: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        requests.check_execute(WRONG[field])

    assert [violation.field for violation in refused.value.violations] == [field]
    assert f"{field}: must" in refused.value.message


@pytest.mark.parametrize(
    ("check", "request_", "field"),
    [
        (requests.check_get, runner_pb2.GetExecutionRequest(), "execution_id"),
        (requests.check_watch, runner_pb2.WatchExecutionRequest(execution_id="a", after_sequence=-1), "after_sequence"),
        (requests.check_cancel, runner_pb2.CancelExecutionRequest(execution_id="a", reason="r" * 2000), "reason"),
        (_check_list, runner_pb2.ListExecutionsRequest(page_size=501), "page_size"),
        (_check_list, runner_pb2.ListExecutionsRequest(page_token="%%%"), "page_token"),
        (_check_list, runner_pb2.ListExecutionsRequest(labels={"": "x"}), "labels['']"),
        (_check_list, runner_pb2.ListExecutionsRequest(created_after=Timestamp(seconds=-1)), "created_after"),
        (_check_list, runner_pb2.ListExecutionsRequest(created_before=Timestamp(nanos=-1)), "created_before"),
        (requests.check_delete_execution, runner_pb2.DeleteExecutionRequest(execution_id="../x"), "execution_id"),
        (requests.check_delete_session, runner_pb2.DeleteSessionRequest(session_id="a b"), "session_id"),
        (
            _check_list,
            runner_pb2.ListExecutionsRequest(page_token="MTE4MDU5MTYyMDcxNzQxMTMwMzQyNDo6"),
            "page_token",
        ),
        (_check_list, runner_pb2.ListExecutionsRequest(states=[event_pb2.STATE_RUNNING] * 100), "states"),
        (_check_list, runner_pb2.ListExecutionsRequest(name="x" * 257), "name"),
        (_check_list, runner_pb2.ListExecutionsRequest(order_by=99), "order_by"),  # type: ignore[arg-type]  # a newer one
        (_check_list, runner_pb2.ListExecutionsRequest(ascending=True), "ascending"),
        (requests.check_read, runner_pb2.ReadToolOutputRequest(execution_id="a", tool_call_id="c"), "stream"),
        (
            requests.check_read,
            runner_pb2.ReadToolOutputRequest(execution_id="a", tool_call_id="c", stream=1, offset=-1),  # type: ignore[arg-type]  # 1 is STDOUT
            "offset",
        ),
        (requests.check_read, runner_pb2.ReadToolOutputRequest(execution_id="a", stream=2), "tool_call_id"),  # type: ignore[arg-type]  # 2 is STDERR
    ],
)
def test_every_rpc_names_its_wrong_field(check: Callable[[Any], object], request_: object, field: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        check(request_)

    assert [violation.field for violation in refused.value.violations] == [field]


def test_a_request_with_nothing_wrong_passes() -> None:
    requests.check_execute(
        execute(
            execution_id="A.b-c_1",
            session_id="s",
            environment={"A": secret(""), "B": secret("long enough"), "C_1": runner_pb2.EnvironmentValue(value="x")},
            limits=limits(timeout=1, max_tool_calls=5),
            labels={"team": ""},
        )
    )


async def test_all_wrong_fields_arrive_together_as_details_and_as_text(start: StartService) -> None:
    client = await start([turn("Hi.")])
    call = client.stub.ExecuteAgent(execute(execution_id="?", message="", after_sequence=-2))

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await client.collect(call)

    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    status = rpc_status.from_call(refused.value)  # type: ignore[arg-type]  # it is a call too
    assert status is not None
    bad_request = error_details_pb2.BadRequest()
    assert any(detail.Unpack(bad_request) for detail in status.details)
    assert [violation.field for violation in bad_request.field_violations] == [
        "execution_id",
        "after_sequence",
        "message",
    ]
    for violation in bad_request.field_violations:
        assert violation.description in (refused.value.details() or "")


async def test_a_refused_request_leaves_nothing_in_the_log(start: StartService) -> None:
    client = await start([turn("Hi.")])
    with pytest.raises(grpc.aio.AioRpcError):
        await client.execute("", execution_id="a")
    with pytest.raises(grpc.aio.AioRpcError, match="OPENAI_API_KEY") as refused:
        await client.execute(
            execution_id="b", agent=runner_pb2.Agent(model=runner_pb2.Model(provider="openai", name="m"))
        )

    assert refused.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert not (await client.stub.ListExecutions(runner_pb2.ListExecutionsRequest())).executions


async def test_a_list_comes_in_pages_and_by_state(start: StartService) -> None:
    client = await start([turn("Hi.")])
    for n in range(5):
        await client.execute(execution_id=f"e{n}", labels={"n": str(n)})

    names: list[str] = []
    token = ""
    while True:
        request = runner_pb2.ListExecutionsRequest(page_size=2, page_token=token, states=[event_pb2.STATE_SUCCEEDED])
        page = await client.stub.ListExecutions(request)
        names += [execution.execution_id for execution in page.executions]
        token = page.next_page_token
        if not token:
            break

    assert names == ["e4", "e3", "e2", "e1", "e0"]
    assert page.executions[-1].labels == {"n": "0"}
    assert page.executions[-1].usage.model_calls == 1
    failed = runner_pb2.ListExecutionsRequest(states=[event_pb2.STATE_FAILED])
    assert not (await client.stub.ListExecutions(failed)).executions


async def test_executions_are_listed_by_labels_and_time_page_by_page(start: StartService) -> None:
    client = await start([turn("Done.")])
    for number in range(5):
        await client.execute(execution_id=str(number), labels={"even": str(number % 2 == 0)})
    listed: list[str] = []
    request = runner_pb2.ListExecutionsRequest(page_size=2, labels={"even": "True"})
    while not listed or request.page_token:
        page = await client.stub.ListExecutions(request)
        listed += [each.execution_id for each in page.executions]
        request.page_token = page.next_page_token
    assert listed == ["4", "2", "0"]
    third = await client.stub.GetExecution(runner_pb2.GetExecutionRequest(execution_id="3"))
    since = runner_pb2.ListExecutionsRequest(created_after=third.execution.create_time)
    assert [each.execution_id for each in (await client.stub.ListExecutions(since)).executions] == ["4", "3"]


async def test_a_page_token_of_another_list_is_refused(start: StartService) -> None:
    client = await start([turn("Hi.")])
    for n in range(3):
        await client.execute(execution_id=f"e{n}")
    page = await client.stub.ListExecutions(runner_pb2.ListExecutionsRequest(page_size=1))

    with pytest.raises(grpc.aio.AioRpcError, match="page_token") as refused:
        await client.stub.ListExecutions(
            runner_pb2.ListExecutionsRequest(page_token=page.next_page_token, session_id="other")
        )
    assert refused.value.code() == grpc.StatusCode.INVALID_ARGUMENT
