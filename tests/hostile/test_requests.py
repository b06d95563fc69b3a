"""Requests as large as they may be, of what costs the most. A million servers took 7 s to refuse."""

import asyncio
from collections.abc import Callable

import grpc
import pytest
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from tests.hostile.conftest import ATTACKING, Attack, attacking

from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import approval_policy_pb2 as policy_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

pytestmark = pytest.mark.long

AT_ONCE = 2
ROOM = 4_000_000  # of the 4 MiB of a message
Value = runner_pb2.EnvironmentValue
Request = Callable[[], Message]


def execute(message: str = "go", **fields: object) -> runner_pb2.ExecuteAgentRequest:
    """A request with this agent, and more fields."""
    agent = fields.pop("agent", runner_pb2.Agent(name="a", instructions="b"))
    return runner_pb2.ExecuteAgentRequest(message=message, agent=agent, **fields)  # type: ignore[arg-type]  # as named


def agent(**fields: object) -> runner_pb2.ExecuteAgentRequest:
    """A request whose agent has these fields."""
    return execute(agent=runner_pb2.Agent(name="a", instructions="b", **fields))  # type: ignore[arg-type]  # as named


def nested(depth: int) -> Struct:
    """A struct of so many values, in lists of lists."""
    struct = Struct()
    struct.update({"a": [[0.0] * 200] * depth})
    return struct


def submit(**fields: object) -> runner_pb2.SubmitApprovalRequest:
    """A decision about a call of the attacker."""
    return runner_pb2.SubmitApprovalRequest(execution_id="attacker", tool_call_id="a", **fields)  # type: ignore[arg-type]  # as named


REQUESTS: dict[str, Request] = {
    "labels without values": lambda: execute(labels={f"{at:09}": "" for at in range(ROOM // 20)}),
    "labels in a listing": lambda: runner_pb2.ListExecutionsRequest(
        labels={f"{at:09}": "" for at in range(ROOM // 20)}
    ),
    "variables without values": lambda: execute(environment={f"{at:09}": Value() for at in range(ROOM // 20)}),
    "servers without names": lambda: agent(mcp_servers=[runner_pb2.McpServer()] * (ROOM // 4)),
    "skills without names": lambda: agent(skills=[runner_pb2.Skill()] * (ROOM // 4)),
    "sub-agents without names": lambda: agent(sub_agents=[runner_pb2.SubAgent()] * (ROOM // 4)),
    "sub-agents of unknown servers": lambda: agent(
        sub_agents=[runner_pb2.SubAgent(name="a", description="b", mcp_servers=[""] * (ROOM // 4))]
    ),
    "placeholders of nothing": lambda: agent(
        mcp_servers=[runner_pb2.McpServer(name="a", http=runner_pb2.HttpServer(headers={"a": "${A}" * (ROOM // 5)}))]
    ),
    "enabled tools": lambda: agent(mcp_servers=[runner_pb2.McpServer(name="a", enabled_tools=["a" * 300] * 13_000)]),
    "rules of a policy": lambda: execute(
        approval_policy=policy_pb2.ApprovalPolicy(rules=[policy_pb2.ApprovalRule()] * (ROOM // 4))
    ),
    "a message of spaces": lambda: execute(" " * ROOM),
    "states": lambda: runner_pb2.ListExecutionsRequest(states=[event_pb2.STATE_RUNNING] * (ROOM // 2)),
    "a page token": lambda: runner_pb2.ListExecutionsRequest(page_token="MTIz" * (ROOM // 4)),
    "a page token of changes": lambda: runner_pb2.ListFileChangesRequest(
        execution_id="attacker", page_token="MTIz" * (ROOM // 4)
    ),
    "paths of a diff": lambda: runner_pb2.GetDiffRequest(execution_id="attacker", paths=["a"] * (ROOM // 4)),
    "paths of a revert": lambda: runner_pb2.RevertChangesRequest(execution_id="attacker", paths=["a"] * (ROOM // 4)),
    "an identifier": lambda: runner_pb2.GetExecutionRequest(execution_id="a" * ROOM),
    "arguments of an approval": lambda: submit(action=1, arguments=nested(1500)),
    "a comment": lambda: submit(action=1, comment="é" * (ROOM // 2)),
    "granted rules": lambda: submit(action=1, granted_rules=[policy_pb2.ApprovalRule()] * (ROOM // 4)),
}


@pytest.mark.parametrize("name", REQUESTS)
async def test_a_request_keeps_nobody_waiting(attack: Attack, name: str) -> None:
    request = REQUESTS[name]()
    rpc = type(request).__name__.removesuffix("Request")
    async with attack(ATTACKING, fields=attacking("sleep 60")) as target:
        call = getattr(target.service.stub, rpc)
        answers = asyncio.gather(*(refused(call, request) for _ in range(AT_ONCE)))
        await target.answers()
        assert set(await answers) <= {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}
        await target.cancel()


async def refused(call: Callable[[Message], grpc.aio.Call], request: Message) -> grpc.StatusCode:
    """Returns the status of a call."""
    return await call(request).code()
