"""Candidates for shell completion, from a running service, within a second or none."""

import asyncio
import os
from collections.abc import Mapping
from contextlib import aclosing
from typing import Any

from runner_service import states
from runner_service.cli.target import Target
from runner_service.cli.views import wording
from runner_service.client import RunnerClient
from runner_service.v1 import agent_runner_pb2 as runner_pb2
from runner_service.v1 import execution_event_pb2 as event_pb2

_PATIENCE = 1.0  # at a prompt a longer wait is worse than no candidates
_MAX_CANDIDATES = 100


def candidates(what: str, options: Mapping[str, Any]) -> dict[str, str]:
    """Returns the candidates with a description of each; none when no service runs. `options` name the service."""
    target = Target(options.get("server"), options.get("token_file"), options.get("ca_file"), bool(options.get("tls")))
    address = target.server or _own_address()
    return asyncio.run(_query(what, str(options.get("execution_id")), target, address)) if address else {}


def _own_address() -> str | None:
    from runner_service.cli.private_service import PrivateService  # noqa: PLC0415  # 130 ms, most of them pydantic's

    return PrivateService(os.environ, anywhere=True).running_at()


async def _query(what: str, execution_id: str, target: Target, address: str) -> dict[str, str]:
    ca = target.ca() if target.server else None
    async with asyncio.timeout(_PATIENCE), RunnerClient(address, token=target.token(), ca=ca) as client:
        match what:
            case "calls":
                calls = await calls_of(client, execution_id)
                return {str(number): wording.call_title(call) for number, call in enumerate(calls, 1)}
            case "sessions":
                return {each.session_id: _description(each) for each in await _newest(client) if each.session_id}
            case "open executions":
                return {each.execution_id: _description(each) for each in await _newest(client, states.OPEN_STATES)}
            case _:
                return {each.execution_id: _description(each) for each in await _newest(client)}


async def calls_of(client: RunnerClient, execution_id: str) -> list[event_pb2.ToolCallStarted]:
    """Returns the tool calls that an execution has made so far, the first one first."""
    newest = (await client.get(execution_id)).last_sequence
    calls = []
    async with aclosing(client.watch(execution_id)) as events:
        async for event in events:
            if event.HasField("tool_call_started"):
                calls.append(event.tool_call_started)
            if event.sequence >= newest:
                break
    return calls


async def _newest(
    client: RunnerClient, states: "tuple[event_pb2.State.ValueType, ...]" = ()
) -> list[runner_pb2.Execution]:
    found: list[runner_pb2.Execution] = []
    async with aclosing(client.list(states=states)) as executions:
        async for execution in executions:
            found.append(execution)
            if len(found) == _MAX_CANDIDATES:
                break
    return found


def _description(execution: runner_pb2.Execution) -> str:
    state = wording.state_name(execution.state)
    return f"{state}, {execution.agent_name}"
