"""Decisions about tool calls, and what is asked, in words."""

import getpass
from dataclasses import dataclass
from typing import Any, Literal

from google.protobuf.json_format import MessageToDict

from runner_service.cli.views import wording
from runner_service.cli.views.lines import printable
from runner_service.client import RunnerClient
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import approval_policy_pb2 as policy_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

_ACTIONS = {
    "approve": event_pb2.APPROVAL_ACTION_APPROVE,
    "skip": event_pb2.APPROVAL_ACTION_SKIP,
    "reject": event_pb2.APPROVAL_ACTION_REJECT,
}


@dataclass(frozen=True)
class Decision:
    """What a person decided about a tool call."""

    action: Literal["approve", "skip", "reject"]
    comment: str = ""
    always: bool = False
    arguments: dict[str, Any] | None = None


async def submit(
    client: RunnerClient, execution_id: str, request: event_pb2.ApprovalRequested, decision: Decision
) -> "event_pb2.State.ValueType":
    """Sends a decision about a request, and returns the state of the execution."""
    submitted = runner_pb2.SubmitApprovalRequest(
        execution_id=execution_id,
        tool_call_id=request.tool_call_id,
        generation=request.generation,
        action=_ACTIONS[decision.action],
        comment=decision.comment,
        decided_by=getpass.getuser(),
    )
    if decision.arguments is not None:
        submitted.arguments.update(decision.arguments)
    if decision.always:
        submitted.grant = policy_pb2.APPROVAL_GRANT_SESSION
        submitted.granted_rules.extend(request.suggested_rules)
    return await client.submit_approval(submitted)


def describe(request: event_pb2.ApprovalRequested, root: str = "") -> str:
    """Returns what is asked, in a line."""
    started = event_pb2.ToolCallStarted(name=request.name, kind=request.kind, arguments=request.arguments)
    return wording.call_title(started, root)


def describe_rule(rule: policy_pb2.ApprovalRule) -> str:
    """Returns what a rule allows, in words."""
    match rule.WhichOneof("subject"):
        case "command":
            return f"commands that begin with `{printable(' '.join(rule.command.words))}`"
        case "path":
            return f"changes of files that match {printable(rule.path)}"
        case "mcp":
            return f"{printable(rule.mcp.tool)} of the MCP server {printable(rule.mcp.server)}"
        case _:
            return f"every call of {printable(rule.tool)}"


def arguments_of(request: event_pb2.ApprovalRequested) -> dict[str, Any]:
    """Returns the arguments of a call as plain values."""
    return dict(MessageToDict(request.arguments))
