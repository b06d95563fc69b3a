"""The gate that tool calls pass before anything of them happens: allowed, refused, or asked about.

A call that is asked about waits in memory for a while and is then parked: LangGraph's `interrupt` takes it out of the
graph, which ends once its siblings are done. The answer never comes through LangGraph: the call enters the gate again
when the execution is resumed, and finds the decision in the log.
"""

import time
from dataclasses import dataclass, replace

from google.protobuf.json_format import MessageToDict
from langchain.agents.middleware import ToolCallRequest
from langgraph.types import interrupt

from runner_service.agent.file_changes import FileChange, describe_change
from runner_service.agent.interface import AgentRun
from runner_service.agent.tool_call_events import arguments_struct, kind_of
from runner_service.agent.tools.scope import RunningCall, RunScope
from runner_service.approvals.policy import ASK, DENY, Call, Verdict, normalised_path
from runner_service.approvals.requests import APPROVED_ACTIONS
from runner_service.v1 import execution_event_pb2 as event_pb2

_SKIPPED = "the user skipped this; go on without it"
_REFUSED = "the user refused this{comment}. Do not try it again in another form"
_EXPIRED = "nobody approved this in time; go on without it"
_FORBIDDEN = "this is not allowed here ({reason}). Do not try it again in another form"
_EDITED = "\n[The user changed the arguments of this call to {arguments}]"

_PATH_ARGUMENT = "file_path"


@dataclass(frozen=True)
class Passage:
    """The outcome for one call: it runs with the arguments of `request`, or `refusal` is what the model is told."""

    request: ToolCallRequest
    refusal: str = ""
    remark: str = ""
    """Appended to the result for the model."""


async def pass_gate(scope: RunScope, call: RunningCall, request: ToolCallRequest, sub_agent: str) -> Passage:
    """Returns once the call may run or is refused.

    Raises:
        GraphInterrupt: the call is parked; it enters the gate again when the execution is resumed.
    """
    run = scope.run
    if not run.approvals.approver.is_active:
        return Passage(request)
    if run.resumption and call.id in run.resumption.started_calls and await scope.journal.find_call(call.id):
        # It ran: its effects must not be taken for a change since it was asked about.
        return _decided(run, call, request)
    asked_call = _call(scope, call, request, sub_agent)
    verdict = run.approvals.approver.decide(asked_call)
    if verdict.verdict != DENY and run.approvals.asked(call.id):
        return await _wait(scope, call, request, asked_call, verdict)
    if verdict.verdict == ASK and not verdict.skip:
        await _ask(run, call, request, asked_call, verdict, await describe_change(run, asked_call))
        return await _wait(scope, call, request, asked_call, verdict)
    if verdict.skip:
        _notify_skipped(run, call, verdict)
    refusals = {ASK: _SKIPPED, DENY: _FORBIDDEN.format(reason=verdict.reason)}
    return Passage(request, refusals.get(verdict.verdict, ""))


async def _wait(
    scope: RunScope, call: RunningCall, request: ToolCallRequest, asked_call: Call, verdict: Verdict
) -> Passage:
    run = scope.run
    while asked := run.approvals.asked(call.id):
        remaining = asked.request.expire_time.ToNanoseconds() / 1e9 - time.time()
        if remaining <= 0 and not run.approvals.decision(call.id):
            run.approvals.expire(call.id)
        hold = _hold_seconds(scope)
        if await run.approvals.wait(call.id, min(max(0.0, remaining), hold)) is None:
            if remaining > hold >= _hold_seconds(scope):  # a sibling may have left processes running meanwhile
                interrupt(call.id)
            continue
        passage = _decided(run, call, request)
        final = _with_arguments(asked_call, passage.request, run.sandbox.root)
        if not passage.refusal and (forbidden := run.approvals.approver.decide(final)).verdict == DENY:
            return Passage(request, _FORBIDDEN.format(reason=forbidden.reason))
        if passage.refusal:
            return passage
        change = await describe_change(run, asked_call)
        if change.sha256 == asked.request.file_sha256:
            return passage
        # What was approved is not what would happen.
        await _ask(run, call, request, asked_call, verdict, change)
    raise RuntimeError("a call waits for a decision only once it was asked about")


def _hold_seconds(scope: RunScope) -> float:
    background = scope.run.approval_hold_background_seconds if scope.has_background_processes else 0.0
    return max(scope.run.approval_hold_seconds, background)


def _decided(run: AgentRun, call: RunningCall, request: ToolCallRequest) -> Passage:
    decided = run.approvals.decision(call.id)
    if decided is None:
        return Passage(request)
    if decided.action in APPROVED_ACTIONS:
        if not decided.HasField("arguments"):
            return Passage(request)
        arguments = MessageToDict(decided.arguments)
        edited = request.override(tool_call={**request.tool_call, "args": arguments})
        return Passage(edited, remark=_EDITED.format(arguments=arguments))
    comment = f": {decided.comment}" if decided.comment else ""
    match decided.action:
        case event_pb2.APPROVAL_ACTION_REJECT:
            return Passage(request, _REFUSED.format(comment=comment))
        case event_pb2.APPROVAL_ACTION_EXPIRED:
            return Passage(request, _EXPIRED)
    return Passage(request, f"{_SKIPPED}{comment}")


async def _ask(
    run: AgentRun,
    call: RunningCall,
    request: ToolCallRequest,
    asked_call: Call,
    verdict: Verdict,
    change: FileChange,
) -> None:
    asked = event_pb2.ApprovalRequested(
        tool_call_id=call.id,
        name=call.name,
        kind=kind_of(call.name),
        arguments=arguments_struct(await run.redactor.any_value(request.tool_call["args"])),
        reason=run.redactor.text(verdict.reason),
        source=verdict.source,
        diff=run.redactor.text(change.diff),
        diff_truncated=change.truncated,
        file_sha256=change.sha256,
        mcp_server=asked_call.mcp.server if asked_call.mcp else "",
        suggested_rules=run.approvals.approver.suggested_rules(asked_call, verdict),
    )
    asked.expire_time.FromNanoseconds(int((time.time() + run.approvals.approver.timeout_seconds) * 1e9))
    run.approvals.ask(asked, call.sub_agent_id)


def _notify_skipped(run: AgentRun, call: RunningCall, verdict: Verdict) -> None:
    text = f"{call.name} was skipped: {verdict.reason}, and nobody is there to decide"
    notice = event_pb2.Notice(level=event_pb2.Notice.LEVEL_WARNING, code="APPROVAL_SKIPPED", text=text)
    run.events.publish(notice, sub_agent_id=call.sub_agent_id)


def _call(scope: RunScope, call: RunningCall, request: ToolCallRequest, sub_agent: str) -> Call:
    named = Call(name=call.name, arguments={}, sub_agent=sub_agent, mcp=scope.mcp_tools.get(call.name))
    return _with_arguments(named, request, scope.run.sandbox.root)


def _with_arguments(call: Call, request: ToolCallRequest, root: str) -> Call:
    """Returns the call with the arguments of a request: the model's, or those that a person put in their place."""
    arguments = request.tool_call["args"]
    path = str(arguments.get(_PATH_ARGUMENT, ""))
    return replace(call, arguments=arguments, path=normalised_path(path, root) if path else "")
