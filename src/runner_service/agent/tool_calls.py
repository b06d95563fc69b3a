"""Middleware around every tool call: limits, journal, events, spans, and errors as results."""

import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from langchain.agents.middleware import ToolCallRequest
from langchain_core.messages import AIMessage, ToolMessage
from langgraph.errors import GraphBubbleUp
from langgraph.types import Command

from runner_service.agent.approval_gate import pass_gate
from runner_service.agent.failures import end_for
from runner_service.agent.filesystem_middleware import FileTools
from runner_service.agent.interface import AgentRun
from runner_service.agent.journal import CallEnd
from runner_service.agent.tool_call_events import Outcome, ToolCallReporter, sub_agent_names
from runner_service.agent.tools.loop_detector import LOOP_REMARK
from runner_service.agent.tools.scope import RunningCall, RunScope, current_call, current_scope, sub_agent_id
from runner_service.agent.usage import count_tool_call
from runner_service.changes.tracker import ChangeTracker
from runner_service.errors import ExecutionEnd, SandboxEnd
from runner_service.models.json_values import MAX_VALUES
from runner_service.models.tool_arguments import UNPARSED_ARGUMENTS
from runner_service.telemetry import tool_span

logger = logging.getLogger(__name__)

ToolResult = ToolMessage | Command[Any]
Handler = Callable[[ToolCallRequest], Awaitable[ToolResult]]

_SIDE_EFFECT_FREE = {"ls", "read_file", "glob", "grep", "write_todos", "task"}
"""Calls of these tools may be repeated after a crash; others must not."""

_FILE_TOOLS = {"write_file", "edit_file"}
"""Their effects are known without a look at the files."""

_INTERRUPTED = (
    "the service was stopped while this ran. It was not run again, and how far it came is not known: "
    "look at what it has changed before you decide what to do"
)

_UNPARSED = (
    "the arguments could not be read; send them again, as one JSON object, in valid Unicode, without NaN or integers "
    f"of more than 64 bits, and with at most {MAX_VALUES:,} values"
)


_ONE_LIST = "write_todos replaces the whole list, so it can be called once in a message; call it again, once"


class SandboxTools(FileTools):
    """Provides the file and command tools. As the outermost middleware it wraps the calls of all other tools, too."""

    async def awrap_tool_call(self, request: ToolCallRequest, handler: Handler) -> ToolResult:
        """Runs a tool. Errors become results; only an `ExecutionEnd` or a cancellation ends the agent."""
        scope = current_scope.get()
        call = _running_call(request)
        passage = await pass_gate(scope, call, request, _agent_name())
        call.rejected = bool(passage.refusal)
        request = passage.request
        count_tool_call(scope.run, call.id)
        arguments = request.tool_call["args"]
        redacted = await scope.run.redactor.any_value(arguments)
        if tracker := _tracker_for(scope.run, call):
            await tracker.before_call()  # here, so that a call which is reported begins at once
        report = ToolCallReporter(scope, call, arguments, redacted)
        token = current_call.set(call)
        try:
            with tool_span(call.name, call.id) as span:
                refused = _failed(request, passage.refusal) if passage.refusal else None
                outcome = await report.outcome(refused or await self._run(scope, call, request, handler))
                await self._record_end(scope, call, outcome, report)
                outcome.record(span)
            told = scope.loop_detector(call.sub_agent_id).observe_call(
                call.name, request.tool_call["args"], outcome.event.result, report.elapsed_seconds
            )
        except GraphBubbleUp:  # a sub-agent is parked: the call goes on when the execution is resumed
            raise
        except SandboxEnd as end:
            report.cancel(end.message)
            raise
        except BaseException:
            report.cancel()
            raise
        finally:
            current_call.reset(token)
            if tracker:
                tracker.call_ended(call.id, is_file_tool=call.name in _FILE_TOOLS)
        remarks = f"{passage.remark}{LOOP_REMARK if told else ''}"
        return outcome.with_remark(remarks) if remarks else outcome.result

    async def _run(self, scope: RunScope, call: RunningCall, request: ToolCallRequest, handler: Handler) -> ToolResult:
        if invalid := _invalid(scope.run, request):
            return _failed(request, invalid)
        if call.name in _SIDE_EFFECT_FREE:
            return await self._run_guarded(request, handler)
        if scope.run.resumption and (earlier := await scope.journal.find_call(call.id)):
            call.resumes = earlier.end is None and call.name == "execute" and scope.run.sandbox.keeps_commands
            if call.resumes:
                return await self._run_guarded(request, handler)
            call.interrupted = earlier.end is None
            call.ended = earlier.end.event if earlier.end else None
            return earlier.end.message if earlier.end else _failed(request, _INTERRUPTED)
        await scope.journal.record_call_start(call.id)
        return await self._run_guarded(request, handler)

    async def _record_end(self, scope: RunScope, call: RunningCall, outcome: Outcome, report: ToolCallReporter) -> None:
        """Records the end of a call in the order that survives a crash at any point.

        A journaled call is not run again, so its output must be in the log by then: it was published before. A
        checkpointed call, the next step, is not looked at again, so its events must be in the log first.
        """
        if not call.rejected and call.name not in _SIDE_EFFECT_FREE and isinstance(outcome.result, ToolMessage):
            scope.journal.record_call_end(call.id, CallEnd(outcome.result, outcome.event))
        report.end(outcome)
        if isinstance(outcome.result, ToolMessage) and not call.sub_agent_id:
            scope.step_results[call.id] = outcome.result
        await scope.run.events.flush()

    async def _run_guarded(self, request: ToolCallRequest, handler: Handler) -> ToolResult:
        try:
            return await super().awrap_tool_call(request, handler)
        except (ExecutionEnd, GraphBubbleUp):
            raise
        except Exception as error:
            # The provider or database failed under a sub-agent, not the tool: ends the execution.
            if request.tool_call["name"] == "task" and (end := end_for(error, current_scope.get().run)):
                raise end from error
            error_id = secrets.token_hex(4)
            logger.exception("tool_call_failed tool=%s error_id=%s", request.tool_call["name"], error_id)
            return _failed(request, f"the tool failed unexpectedly (error id {error_id}); try something else")


def _tracker_for(run: AgentRun, call: RunningCall) -> ChangeTracker | None:
    """Finds what the call changes in files; None if it cannot change any."""
    return None if call.rejected or call.name in _SIDE_EFFECT_FREE else run.tracker


def _running_call(request: ToolCallRequest) -> RunningCall:
    name = request.tool_call["name"]
    sub_agent = str(request.tool_call["args"].get("subagent_type", "")) if name == "task" else ""
    known = request.tool is not None
    return RunningCall(str(request.tool_call["id"]), name, sub_agent_id(), sub_agent=sub_agent, is_known=known)


def _agent_name() -> str:
    """The sub-agent whose call is about to run; empty for the main agent."""
    outer = current_call.get()
    return outer.sub_agent if outer else ""


def _invalid(run: AgentRun, request: ToolCallRequest) -> str:
    """What is wrong with a call, or empty."""
    name, arguments = request.tool_call["name"], request.tool_call["args"]
    if UNPARSED_ARGUMENTS in arguments:
        return _UNPARSED
    if name == "write_todos" and _is_one_of_many(request):
        return _ONE_LIST
    return _unknown_sub_agent(run, arguments) if name == "task" else ""


def _is_one_of_many(request: ToolCallRequest) -> bool:
    """Whether the model's message calls this tool more than once."""
    last = next((each for each in reversed(request.state["messages"]) if isinstance(each, AIMessage)), None)
    names = [call["name"] for call in last.tool_calls] if last else []
    return names.count(request.tool_call["name"]) > 1


def _unknown_sub_agent(run: AgentRun, arguments: Mapping[str, Any]) -> str:
    name, known = arguments.get("subagent_type"), sub_agent_names(run)
    is_known = isinstance(name, str) and name in known
    return "" if is_known else f"there is no sub-agent {name}; those there are: {', '.join(sorted(known))}"


def _failed(request: ToolCallRequest, reason: str) -> ToolMessage:
    call = request.tool_call
    return ToolMessage(content=f"Error: {reason}", name=call["name"], tool_call_id=str(call["id"]), status="error")
