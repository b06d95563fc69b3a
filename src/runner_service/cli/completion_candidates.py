"""Candidates for shell completion, from the log or a running service, within a second or none."""

import asyncio
import itertools
from collections.abc import Iterable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any

from runner_service import states
from runner_service.cli.local_log import opened_local_log
from runner_service.cli.target import Target
from runner_service.cli.views import wording
from runner_service.storage.execution_filter import ExecutionFilter
from runner_service.storage.sqlite.read_only_log import ReadOnlyLog
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

if TYPE_CHECKING:
    from runner_service.client import RunnerClient

_TIMEOUT_SECONDS = 1.0  # at a prompt a longer wait is worse than no candidates
_MAX_CANDIDATES = 100


def candidates(what: str, options: Mapping[str, Any]) -> dict[str, str]:
    """Returns the candidates with a description of each; none when nothing is known. `options` name the service."""
    target = Target(options.get("server"), options.get("token_file"), options.get("ca_file"), bool(options.get("tls")))
    execution_id = str(options.get("execution_id"))
    with opened_local_log(target) as log:
        if log:
            return _from_log(what, execution_id, log)
    return asyncio.run(_from_service(what, execution_id, target)) if target.server else {}


def _from_log(what: str, execution_id: str, log: ReadOnlyLog) -> dict[str, str]:
    if what == "calls":
        return _described_calls(calls_in(log.events(execution_id)))
    return _described(what, itertools.islice(log.list(_filter(what)), _MAX_CANDIDATES))


async def _from_service(what: str, execution_id: str, target: Target) -> dict[str, str]:
    from runner_service.cli import silent_grpc  # noqa: F401, PLC0415  # gRPC, where it is needed
    from runner_service.cli.connection import certificate_of  # noqa: PLC0415  # the same
    from runner_service.client import RunnerClient  # noqa: PLC0415  # the same

    async with (
        asyncio.timeout(_TIMEOUT_SECONDS),
        RunnerClient(
            target.server or "",
            token=target.token,
            ca=target.ca(),
            certificate=certificate_of(target),
            tenant=target.tenant,
        ) as client,
    ):
        if what == "calls":
            return _described_calls(await calls_of(client, execution_id))
        found: list[runner_pb2.Execution] = []
        async with aclosing(client.list(states=_filter(what).states)) as executions:
            async for execution in executions:
                found.append(execution)
                if len(found) == _MAX_CANDIDATES:
                    break
        return _described(what, found)


def calls_in(events: Iterable[event_pb2.ExecutionEvent]) -> list[event_pb2.ToolCallStarted]:
    """Returns the tool calls among events."""
    return [event.tool_call_started for event in events if event.HasField("tool_call_started")]


async def calls_of(client: "RunnerClient", execution_id: str) -> list[event_pb2.ToolCallStarted]:
    """Returns the tool calls that an execution has made so far, the first one first."""
    newest = (await client.get(execution_id)).last_sequence
    calls = []
    async with aclosing(client.watch(execution_id)) as events:
        async for event in events:
            calls += calls_in([event])
            if event.sequence >= newest:
                break
    return calls


def _filter(what: str) -> ExecutionFilter:
    return ExecutionFilter(states.OPEN_STATES if what == "open executions" else ())


def _described_calls(calls: Iterable[event_pb2.ToolCallStarted]) -> dict[str, str]:
    return {str(number): wording.call_title(call) for number, call in enumerate(calls, 1)}


def _described(what: str, executions: Iterable[runner_pb2.Execution]) -> dict[str, str]:
    if what == "sessions":
        return {each.session_id: _description(each) for each in executions if each.session_id}
    return {each.execution_id: _description(each) for each in executions}


def _description(execution: runner_pb2.Execution) -> str:
    return f"{wording.state_name(execution.state)}, {execution.agent_name}"
